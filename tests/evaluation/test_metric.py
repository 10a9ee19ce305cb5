"""A metric of a user's own: its columns, its faults, and the responses of all ranks."""

import logging
import math
import os

import numpy as np
import pytest
import torch

from lit_align import WIND, ExactEvaluator, GameJudge, HeldOutEvaluator, Metric, RandomGame
from lit_align.evaluation.metric import OwnMetrics
from tests.evaluation.test_heldout import rollouts
from tests.laws.instances import on
from tests.strategies.two_processes import on_two_processes

TEXTS = ["a", "b!", "c"]


class Count(Metric):
    """How many texts have each mark."""

    def __init__(self, marks):
        self.marks = marks

    def __call__(self, rollouts, texts):
        return {mark: sum(mark in text for text in texts) for mark in self.marks}


def longest(rollouts, texts):
    return rollouts.responses.lengths.max()


def measured(said, **others):
    """The result of a metric that says something, or raises it."""

    def metric(rollouts, texts):
        if isinstance(said, Exception):
            raise said
        return said

    own = OwnMetrics({"mine": metric, **others}, ())
    own.update(rollouts(), TEXTS)
    return own.result()


def test_a_number_has_the_column_of_its_name_and_a_dictionary_one_for_each_key():
    own = OwnMetrics({"longest": longest, "marks": Count("!ac")}, ())
    own.update(rollouts(), TEXTS)
    assert own.result() == {"longest": 3.0, "marks_!": 1.0, "marks_a": 1.0, "marks_c": 1.0}


@pytest.mark.parametrize("said", [2, 2.0, torch.tensor(2), torch.tensor([2.0]), np.float32(2), np.int64(2)])
def test_a_number_of_any_library_is_a_number(said):
    assert measured(said) == {"mine": 2.0}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (math.inf, "mine is inf, which is no finite number"),
        ({"share": math.nan}, "mine_share is nan, which is no finite number"),
        ("2", "mine is a text, not a number"),
        ([1, 2], "TypeError"),
        (None, "TypeError"),
        ({"b_c": 1.0, "b": 2.0}, None),
    ],
    ids=str,
)
def test_one_that_fails_is_told_of_in_a_line_and_costs_the_others_nothing(said, line, caplog):
    with caplog.at_level(logging.WARNING, "lit_align"):
        found = measured(said, longest=longest)
    assert found["longest"] == 3.0
    if line is None:
        assert found == {"mine_b_c": 1.0, "mine_b": 2.0, "longest": 3.0}
        assert caplog.messages == []
    else:
        assert found == {"longest": 3.0}
        (said,) = caplog.messages
        assert said.startswith("model.metrics.mine has no value: ")
        assert line in said
        assert "\n" not in said


def test_a_column_that_had_a_value_is_nan_where_it_has_none():
    said = iter([1.0, RuntimeError("no more"), 3.0])

    def metric(rollouts, texts):
        value = next(said)
        if isinstance(value, Exception):
            raise value
        return {"share": value}

    own = OwnMetrics({"mine": metric}, ())
    found = []
    for _ in range(3):
        own.update(rollouts(), TEXTS)
        found.append(own.result()["mine_share"])
    assert found == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    assert own.result() == {}  # nothing was added


@pytest.mark.parametrize("name", ["reward", "kl", "win_rate", "win_rate_low", "win", "distinct", "win_rate_strict"])
def test_a_name_whose_column_would_be_anothers_is_refused(name):
    game = RandomGame(1, 3)
    with pytest.raises(ValueError, match=f"model.metrics: the name '{name}' is taken"):
        HeldOutEvaluator({"strict": GameJudge(game)}, {name: longest})
    HeldOutEvaluator({"strict": GameJudge(game)}, {f"{name}s": longest})


def test_two_metrics_of_one_column_are_told_of(caplog):
    assert measured({"b_c": 1.0}, mine_b=lambda rollouts, texts: {"c": 2.0}) == {"mine_b_c": 1.0}
    assert "model.metrics.mine_b has no value: ValueError: val/mine_b_c is another metric's column" in caplog.text


def test_an_evaluator_of_ones_own_has_its_own_metrics():
    game = RandomGame(1, 3)
    with pytest.raises(ValueError, match=r"model\.metrics are measured by the evaluator of held-out responses"):
        on(game, WIND, evaluator=ExactEvaluator(), metrics={"longest": longest})


def of_a_rank():
    """What each of two ranks is told, where the first has two responses and the second one."""
    torch.distributed.init_process_group("gloo")
    rank, asked = int(os.environ["RANK"]), []

    def metric(rollouts, texts):
        asked.append((rollouts.responses.prompts.record_id.tolist(), texts))
        return len(texts)

    own = OwnMetrics({"mine": metric}, ())
    rows = [0, 2] if rank == 0 else [1]
    own.update(rollouts(rows=rows), [TEXTS[row] for row in rows])
    found = own.result()
    torch.distributed.destroy_process_group()
    return found, asked


@pytest.mark.slow
def test_the_first_rank_measures_the_responses_of_all_in_their_order_and_all_are_told():
    (first, asked), (second, not_asked) = on_two_processes(of_a_rank)
    assert first == second == {"mine": 3.0}
    assert asked == [([11, 12, 13], TEXTS)]
    assert not_asked == []


def test_a_metric_that_changes_what_it_is_given_or_where_it_works_changes_nothing_for_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = rollouts()
    wins, records = own.wins.clone(), [dict(record) for record in own.responses.prompts.records]
    assert any(records)

    def greedy(rollouts, texts):
        rollouts.wins.zero_()
        for record in rollouts.responses.prompts.records:
            record.clear()
        texts.clear()
        os.chdir("/")
        return 1.0

    texts = list(TEXTS)
    metrics = OwnMetrics({"greedy": greedy, "count": lambda rollouts, texts: len(texts)}, ())
    metrics.update(own, texts)
    assert metrics.result() == {"greedy": 1.0, "count": 3.0}
    assert torch.equal(own.wins, wins)
    assert own.responses.prompts.records == records
    assert texts == TEXTS
    assert os.getcwd() == str(tmp_path)
