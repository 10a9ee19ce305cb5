"""What is missing is told in one line, and nothing at all is an error."""

import logging
import math

import pytest

from lit_align import Judge, JudgeError
from lit_align.data.templates import Chat, encode
from lit_align.judges.base import check_compared, tell_missing
from tests.conftest import make_tokenizer, prompts_of


class Silent(Judge):
    """Says nothing of so many comparisons, and why."""

    def __init__(self, silent):
        self.silent = silent

    def compare(self, prompts, first, second, records):
        if self.silent:
            self.faults.note("ConnectionError: lost")
            self.faults.succeeded()
        return [math.nan] * self.silent + [1.0] * (len(prompts) - self.silent)


def compared(judge, size=3):
    prompts = encode(Chat(make_tokenizer()), prompts_of(2))
    return judge.verdict(prompts, [[str(i) for i in range(size)]] * 2).compared


def test_one_line_says_how_many_and_why_once(caplog):
    judge = Silent(2)
    given = compared(judge)
    with caplog.at_level(logging.WARNING):
        check_compared(judge, given, "iteration 3")
    assert caplog.messages == ["iteration 3: judge Silent left 2 of 6 comparisons missing (ConnectionError: lost)"]
    caplog.clear()
    tell_missing(judge, 1, 4, "evaluation")
    assert caplog.messages == ["evaluation: judge Silent left 1 of 4 comparisons missing"]


def test_nothing_is_said_where_nothing_is_missing_or_nothing_was_compared(caplog):
    check_compared(Silent(0), compared(Silent(0)), "iteration 1")
    check_compared(Silent(0), compared(Silent(0), size=1), "iteration 1")
    assert caplog.messages == []


def test_an_iteration_without_any_comparison_is_refused_with_the_judges_error():
    judge = Silent(6)
    given = compared(judge)
    with pytest.raises(JudgeError, match="iteration 3: judge Silent made none of 6 comparisons: ConnectionError: lost"):
        check_compared(judge, given, "iteration 3")
