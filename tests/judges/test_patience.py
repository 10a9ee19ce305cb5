"""A judge that fails is retried, then in parts; what it still fails on is missing, and nothing else is."""

import math
import threading

import pytest
import torch

from lit_align import Judge, JudgeError, PairwiseFunction, Patience, RewardFunction, RewardJudge
from lit_align.data.templates import Chat, encode
from lit_align.judges.calls import call_judge
from lit_align.judges.patience import Faults, MayPass
from tests.conftest import make_tokenizer, prompts_of

ROWS = 64
COLUMNS = [[f"prompt {row}" for row in range(ROWS)], list(range(ROWS))]


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


class Flaky:
    """Doubles numbers, but raises while ``trouble(call, rows)`` says so; remembers its calls."""

    def __init__(self, trouble, error=None):
        self.trouble, self.error = trouble, error or ConnectionError("lost")
        self.calls: list[list[int]] = []

    def __call__(self, prompts, rows):
        self.calls.append(rows)
        if self.trouble(len(self.calls), rows):
            raise self.error
        return [2.0 * row for row in rows]


def judged(function, patience=None, faults=None) -> list[float]:
    return call_judge("j", function, COLUMNS, patience=patience or Patience(), faults=faults)


def missing(values: list[float]) -> set[int]:
    assert all(value == 2.0 * row for row, value in enumerate(values) if not math.isnan(value))
    return {row for row, value in enumerate(values) if math.isnan(value)}


@pytest.mark.parametrize("error", [ConnectionError(), TimeoutError(), RuntimeError("busy"), ValueError("no JSON")])
def test_an_error_that_passes_leaves_no_trace(waits, error):
    function, faults = Flaky(lambda call, rows: call <= 2, error), Faults()
    assert missing(judged(function, faults=faults)) == set()
    assert [len(rows) for rows in function.calls] == [ROWS] * 3
    assert waits == [1.0, 2.0]
    assert faults.reason == ""


def test_the_wait_doubles_up_to_a_minute(waits):
    judged(Flaky(lambda call, rows: call <= 9), Patience(max_retries=9, backoff=0.5))
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


@pytest.mark.parametrize(("asked_for", "waited"), [(None, 2.0), (0.0, 0.0), (7.0, 7.0), (3600.0, 60.0)])
def test_a_server_that_says_when_is_waited_for_so_long_but_no_more_than_a_minute(waits, asked_for, waited):
    judged(Flaky(lambda call, rows: call == 1, MayPass("busy", asked_for)), Patience(backoff=2.0))
    assert waits == [waited]


@pytest.mark.parametrize("odd", [{0}, {63}, {7, 8, 40}, set(range(16, 32))], ids=len)
def test_only_the_rows_that_always_fail_are_missing(odd):
    function, faults = Flaky(lambda call, rows: odd & set(rows)), Faults()
    assert missing(judged(function, faults=faults)) == odd
    assert faults.reason == "ConnectionError: lost"
    assert faults.answered
    assert not faults.down


def test_one_odd_row_costs_few_calls():
    function = Flaky(lambda call, rows: 5 in rows)
    judged(function, Patience(max_retries=0))
    assert len(function.calls) < 2 * ROWS.bit_length() + 4


def test_a_row_alone_is_retried_too():
    seen: dict[int, int] = {}

    def trouble(call, rows):
        if 5 not in rows:
            return False
        seen[len(rows)] = seen.get(len(rows), 0) + 1
        return len(rows) > 1 or seen[1] <= 2

    assert missing(judged(Flaky(trouble))) == set()
    assert (seen[ROWS], seen[1]) == (3, 3)


def test_a_judge_that_has_never_answered_is_refused_with_its_first_error(waits):
    function = Flaky(lambda call, rows: True)
    with pytest.raises(JudgeError, match="judge j failed on every sample, to the last retry: ConnectionError: lost"):
        judged(function)
    assert len(function.calls) < 40
    assert sum(waits) < 30


def test_a_judge_that_goes_down_later_leaves_comparisons_missing_and_is_believed_again_when_it_is_back(waits):
    down = threading.Event()
    function, faults = Flaky(lambda call, rows: down.is_set()), Faults()
    assert missing(judged(function, faults=faults)) == set()
    down.set()
    assert missing(judged(function, faults=faults)) == set(range(ROWS))
    before = len(function.calls)
    assert missing(judged(function, faults=faults)) == set(range(ROWS))
    assert len(function.calls) - before == 3  # known to be down: no row is tried alone
    down.clear()
    assert missing(judged(function, faults=faults)) == set()
    assert not faults.down


@pytest.mark.parametrize(
    "error", [TypeError("f() takes 2"), KeyError("topic"), AttributeError(), ZeroDivisionError(), ImportError("x")]
)
def test_an_error_of_the_code_is_told_at_once_with_the_sample(waits, error):
    function = Flaky(lambda call, rows: 5 in rows, error)
    with pytest.raises(JudgeError, match=rf"judge j raised {type(error).__name__}.*sample 5: prompt 'prompt 5'"):
        judged(function)
    assert waits == []
    assert len(function.calls) == 7


@pytest.mark.parametrize("values", [[1.0] * (ROWS - 1), [math.nan] * ROWS, ["a"] * ROWS], ids=["short", "nan", "text"])
def test_what_is_no_judgement_is_told_at_once(waits, values):
    calls = []
    with pytest.raises(JudgeError, match="judge j returned"):
        judged(lambda *columns: calls.append(columns) or values)
    assert len(calls) == 1
    assert waits == []


def test_a_call_that_takes_too_long_has_failed_and_is_not_waited_for():
    release, waited_for, faults = threading.Event(), [], Faults()

    def slow(prompts, rows):
        if 5 in rows:
            release.wait(300)
            waited_for.append(rows)
        return [2.0 * row for row in rows]

    values = judged(slow, Patience(max_retries=0, timeout=0.5), faults)
    assert waited_for == []
    release.set()
    assert missing(values) == {5}
    assert faults.reason == "TimeoutError: no answer within 0.5 s"


def test_a_call_with_a_timeout_has_no_gradients_and_passes_errors_on():
    assert judged(lambda p, rows: [2.0 * row + torch.is_grad_enabled() for row in rows], Patience(timeout=99.0))[3] == 6
    with pytest.raises(JudgeError, match=r"raised KeyError: 'x'"):
        judged(Flaky(lambda call, rows: True, KeyError("x")), Patience(timeout=99.0))


def test_ctrl_c_is_not_a_failure():
    with pytest.raises(KeyboardInterrupt):
        judged(Flaky(lambda call, rows: True, KeyboardInterrupt()))


def groups(count):
    prompts = encode(Chat(make_tokenizer()), prompts_of(count))
    return prompts, [[f"{row}", f"{row} good", f"{row} bad bad"] for row in range(count)]


class Lengths(RewardJudge):
    """Rewards length, but loses the connection over ``odd`` texts."""

    def __init__(self, odd):
        super().__init__()
        self.odd = odd

    def rewards(self, prompts, responses, records):
        if self.odd & set(responses):
            raise ConnectionError("lost")
        return [float(len(text)) for text in responses]


def test_a_reward_that_is_missing_takes_its_comparisons_with_it_and_no_others():
    prompts, texts = groups(40)
    done: list[int] = []
    judge = Lengths({"3 good"})
    verdict = judge.verdict(prompts, texts, done.append)
    whole = Lengths(set()).verdict(prompts, texts)
    assert done == [32, 8]
    assert verdict.rewards.isnan().nonzero().tolist() == [[3, 1]]
    lost = torch.zeros(40, 3, 3, dtype=torch.bool)
    lost[3, 1, :] = lost[3, :, 1] = True
    lost[3, 1, 1] = False
    assert torch.equal(verdict.compared, ~lost)
    assert torch.equal(verdict.wins[~lost], whole.wins[~lost])
    assert (verdict.wins[lost] == 0.5).all()
    wins = judge.beats(prompts, [group[0] for group in texts], [group[1] for group in texts])
    assert wins.isnan().nonzero().flatten().tolist() == [3]
    rewards = verdict.rewards[:, 0], verdict.rewards[:, 1]
    assert judge.beats(prompts, *[[""] * 40] * 2, *rewards).isnan().nonzero().flatten().tolist() == [3]


def test_a_judge_of_pairs_that_raises_is_patient_without_asking_for_it():
    class Longer(Judge):
        def compare(self, prompts, first, second, records):
            if "1 good" in (*first, *second):
                raise TimeoutError("slow")
            return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]

    prompts, texts = groups(3)
    verdict = Longer().verdict(prompts, texts)
    assert (~verdict.compared).nonzero().tolist() == [[1, 0, 1], [1, 1, 0], [1, 1, 2], [1, 2, 1]]


def shy(prompts, first, second, records):
    """Cannot see "good" in the first place."""
    if any("good" in text for text in first):
        raise OSError("no line")
    return [1.0] * len(first)


def test_half_a_comparison_of_a_pairwise_function_is_none():
    prompts, texts = groups(2)
    verdict = PairwiseFunction("tests.judges.test_patience.shy").verdict(prompts, texts)
    assert verdict.compared.tolist() == [[[True, False, True], [False, True, False], [True, False, True]]] * 2
    assert verdict.wins[0, 0, 2] == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"max_retries": -1}, "max_retries must be >= 0"), ({"backoff": 0.0}, "backoff"), ({"timeout": 0.0}, "timeout")],
)
def test_a_patience_without_a_meaning_is_refused(options, words):
    for judge in (RewardFunction, PairwiseFunction):
        with pytest.raises(ValueError, match=rf"judge\.{words}"):
            judge("tests.conftest.happiness", **options)
