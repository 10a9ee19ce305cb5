"""A verdict that is on disk is not asked for again, to the last bit; one that is damaged is."""

import math

import pytest
import torch

from lit_align import Judge, JudgeError
from lit_align.judges.journal import Journal, Journalled
from lit_align.judges.reward import RewardJudge
from lit_align.utils.digests import text_digest
from tests.conftest import prompts_of

PROMPTS = 7


class Remembers(Judge):
    """Has irrational probabilities, misses one in five, and fails when told to."""

    prompts_at_once = 3
    indifferent = Judge.indifferent | {"fails_at"}

    def __init__(self, fails_at: int = -1) -> None:
        self.asked, self.fails_at = [], fails_at

    def compare(self, prompts, first, second, records):
        if len(self.asked) == self.fails_at:
            raise JudgeError("no more")
        self.asked.append(list(zip(prompts, first, second, strict=True)))
        return [
            math.nan if (len(a) * len(b)) % 5 == 0 else math.sqrt(len(a) / (len(a) + len(b)))
            for a, b in zip(first, second, strict=True)
        ]


class Lengths(RewardJudge):
    """A third of the length, which no decimal number is."""

    prompts_at_once = 2

    def __init__(self, comparison="hard", temperature=1.0) -> None:
        super().__init__(comparison, temperature)
        self.asked = []

    def rewards(self, prompts, responses, records):
        self.asked.append(responses)
        return [len(response) / 3 for response in responses]


@pytest.fixture
def prompts(tiny_model):
    from lit_align import LanguageModel

    return LanguageModel(tiny_model).encode(prompts_of(PROMPTS))


TEXTS = [["a" * (i + 1), "b" * (3 * i % 5 + 1), f"c{i}"] for i in range(PROMPTS)]


@pytest.mark.parametrize("make", [Remembers, Lengths])
def test_judging_in_blocks_is_judging(prompts, tmp_path, make):
    expected = make().verdict(prompts, TEXTS)
    told, judge = [], make()
    found = Journalled(judge, tmp_path / "j").verdict(prompts, TEXTS, told.append)
    again = Journalled(judge, tmp_path / "j").verdict(prompts, TEXTS, told.append)
    assert len(judge.asked) == math.ceil(PROMPTS / judge.prompts_at_once)  # the second time nothing is asked
    assert sum(told) == 2 * PROMPTS
    for verdict in (found, again):
        assert torch.equal(verdict.wins, expected.wins)
        assert torch.equal(verdict.compared, expected.compared)
        assert (verdict.rewards is None) == (expected.rewards is None)
        assert expected.rewards is None or torch.equal(verdict.rewards, expected.rewards)
        assert verdict.wins.dtype == expected.wins.dtype


def test_what_was_judged_before_a_failure_is_kept(prompts, tmp_path):
    with pytest.raises(JudgeError):
        Journalled(Remembers(fails_at=2), tmp_path / "j").verdict(prompts, TEXTS)
    judge = Remembers()
    found = Journalled(judge, tmp_path / "j").verdict(prompts, TEXTS)
    assert len(judge.asked) == 1
    assert torch.equal(found.wins, Remembers().verdict(prompts, TEXTS).wins)


def test_comparisons_of_an_evaluation_are_kept_too(prompts, tmp_path):
    first, second = ([texts[i] for texts in TEXTS] for i in (0, 1))
    expected = Remembers().beats(prompts, first, second)
    assert expected.isnan().any()
    judge = Remembers()
    for _ in range(2):
        found = Journalled(judge, tmp_path / "j").beats(prompts, first, second)
        assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    assert len(judge.asked) == 3
    Journalled(judge, tmp_path / "j").beats(prompts, second, first)
    assert len(judge.asked) == 6  # another question


def test_rewards_that_are_known_are_neither_asked_for_nor_written(prompts, tmp_path):
    judge = Lengths()
    known = torch.arange(float(PROMPTS)), torch.full((PROMPTS,), 3.0)
    wins = Journalled(judge, tmp_path / "j").beats(prompts, ["x"] * PROMPTS, ["y"] * PROMPTS, *known)
    assert wins.tolist() == [0, 0, 0, 0.5, 1, 1, 1]
    assert not judge.asked
    assert not (tmp_path / "j").exists()


class Another(Remembers):
    """Another class."""


@pytest.mark.parametrize("other", [Another, lambda: Lengths("bradley_terry"), lambda: Lengths(temperature=2.0)])
def test_another_judge_has_verdicts_of_its_own_though_it_has_the_name(prompts, tmp_path, other):
    first, judge = (Remembers() if other is Another else Lengths()), other()
    assert (first.name == judge.name) == (other is not Another)
    Journalled(first, tmp_path / "j").verdict(prompts, TEXTS)
    Journalled(judge, tmp_path / "j").verdict(prompts, TEXTS)
    assert len(judge.asked) == len(first.asked) > 0


def test_verdicts_that_were_kept_by_name_are_found_and_that_is_said_once(prompts, tmp_path, caplog):
    path, judge = tmp_path / "run" / "rollouts" / "j", Remembers()
    expected = Journalled(judge, path).verdict(prompts, TEXTS)
    rows = [prompts.record_id[start : start + 3].tolist() for start in range(0, PROMPTS, 3)]
    asked = [repr((ids, TEXTS[start : start + 3])) for ids, start in zip(rows, range(0, PROMPTS, 3), strict=True)]
    old = Journal(path.with_name("old"))
    for text in asked:  # as version 0.1 wrote them
        old.put(text_digest("verdict", "Remembers", "Remembers", text), kept(path, judge, text))
    again = Remembers()
    for _ in range(2):
        assert torch.equal(Journalled(again, old.path).verdict(prompts, TEXTS).wins, expected.wins)
    assert not again.asked
    (line,) = caplog.messages
    assert line.startswith(
        f"{tmp_path / 'run'}: verdicts of an earlier version name their judge alone (Remembers Remembers)"
    )


def kept(path, judge, text):
    """What a journal has of a question."""
    return Journal(path).get(text_digest("verdict", judge.identity, text))


def test_a_line_that_was_cut_short_or_damaged_is_not_there_and_harms_no_other(tmp_path, caplog):
    path = tmp_path / "j"
    for key, value in (("a", [1.5, None]), ("b", "☀"), ("c", {"x": 0.1})):
        Journal(path).put(key, value)
    whole = path.read_bytes()
    for size in range(whole.index(b'"c"'), len(whole) - 1):
        path.write_bytes(whole[:size])
        assert [Journal(path).get(key) for key in "abc"] == [[1.5, None], "☀", None]
    path.write_bytes(whole[:-5])
    Journal(path).put("d", 4)
    assert [Journal(path).get(key) for key in "abcd"] == [[1.5, None], "☀", None, 4]
    path.write_bytes(whole.replace(b"1.5", b"1.6"))
    caplog.clear()
    assert [Journal(path).get(key) for key in "abc"] == [None, "☀", {"x": 0.1}]
    assert "1 damaged" in caplog.text
