"""A pairwise judge is asked in both orders: no taste for a place survives, and the two orders sum to one."""

import pytest
import torch

from lit_align import JudgeError, PairwiseFunction
from lit_align.data.templates import Chat, encode
from tests.conftest import make_tokenizer

ROWS = [{"prompt": "the cat"}, {"prompt": "the dog", "topic": "rain"}]
CALLS: list[list[tuple]] = []


def likes_first(prompts, first, second, records):
    return [1.0] * len(prompts)


def biased(prompts, first, second, records):
    """Prefers the longer response, and the first place."""
    CALLS.append(list(zip(prompts, first, second, (r.get("topic") for r in records), strict=True)))
    return [min(1.0, max(0.0, 0.6 + 0.1 * (len(a) - len(b)))) for a, b in zip(first, second, strict=True)]


def too_sure(prompts, first, second, records):
    return [1.5] * len(prompts)


def judge_of(function) -> PairwiseFunction:
    CALLS.clear()
    return PairwiseFunction(f"{__name__}.{function.__name__}")


def compare(judge, first, second):
    return judge.compare([row["prompt"] for row in ROWS], first, second, ROWS)


def test_a_judge_that_always_prefers_the_first_place_gives_one_half():
    assert compare(judge_of(likes_first), ["a", "b"], ["c", "d"]) == [0.5, 0.5]


def test_the_two_orders_are_averaged():
    # Asked (aaa, a): 0.6 + 0.2; asked (a, aaa): 0.6 - 0.2 for the other one, so 0.6 for aaa.
    assert compare(judge_of(biased), ["aaa", "b"], ["a", "bb"]) == pytest.approx([(0.8 + 0.6) / 2, (0.5 + 0.3) / 2])


def test_each_pair_is_asked_once_in_each_order_with_its_prompt_and_record():
    compare(judge_of(biased), ["aaa", "b"], ["a", "bb"])
    assert sorted((asked for call in CALLS for asked in call), key=str) == sorted(
        [
            ("the cat", "aaa", "a", None),
            ("the cat", "a", "aaa", None),
            ("the dog", "b", "bb", "rain"),
            ("the dog", "bb", "b", "rain"),
        ],
        key=str,
    )


def test_swapping_the_responses_gives_the_complement():
    judge = judge_of(biased)
    forward, backward = compare(judge, ["aaa", "b"], ["a", "bb"]), compare(judge, ["a", "bb"], ["aaa", "b"])
    assert [p + q for p, q in zip(forward, backward, strict=True)] == pytest.approx([1.0, 1.0])


def test_identical_responses_are_ties_and_are_not_asked_about():
    judge = judge_of(biased)
    assert compare(judge, ["same", "b"], ["same", "bb"]) == pytest.approx([0.5, 0.4])
    assert {prompt for call in CALLS for prompt, *_ in call} == {"the dog"}
    CALLS.clear()
    assert compare(judge, ["same", "same"], ["same", "same"]) == [0.5, 0.5]
    assert CALLS == []


def test_a_verdict_is_complementary_with_half_on_the_diagonal():
    prompts = encode(Chat(make_tokenizer()), ROWS)
    wins = judge_of(biased).verdict(prompts, [["a", "aaa", "aa"], ["b", "b", "bbbb"]]).wins
    torch.testing.assert_close(wins + wins.mT, torch.ones(2, 3, 3))
    assert (wins.diagonal(dim1=1, dim2=2) == 0.5).all()
    assert wins[0, 1, 0] > 0.5
    assert wins[1, 0, 1] == 0.5


def test_what_is_no_probability_is_refused():
    with pytest.raises(JudgeError, match=r"too_sure returned 1\.5, not a number in \[0, 1\].*the cat"):
        compare(judge_of(too_sure), ["a", "b"], ["c", "d"])


def test_an_unknown_function_is_one_clear_error():
    with pytest.raises(ValueError, match=r"judge\.function: cannot import 'no_such_module.compare'"):
        PairwiseFunction("no_such_module.compare")
