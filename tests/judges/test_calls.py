"""Whatever a judge does wrong, one JudgeError names the judge and the sample."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_align import JudgeError, RewardFunction
from lit_align.judges.calls import call_judge

COLUMNS = (["the cat", "the dog", "a day"], ["good", "bad", "nice"])


def test_the_values_of_a_judge_come_back_as_floats():
    values = call_judge("j", lambda p, y: [len(y[0]), np.float32(0.5), torch.tensor(-2)], COLUMNS)
    assert values == [4.0, 0.5, -2.0]
    assert all(type(value) is float for value in values)


def test_a_judge_that_raises_on_one_sample_is_named_with_that_sample():
    def picky(prompts, responses):
        if "bad" in responses:
            raise KeyError("no bad words")
        return [0.0] * len(prompts)

    with pytest.raises(JudgeError, match=r"judge picky raised KeyError.*no bad words.*sample 1.*the dog.*bad"):
        call_judge("picky", picky, COLUMNS)


def test_a_judge_that_raises_while_its_values_are_drawn_is_named_with_its_sample():
    def lazy(prompts, responses):
        for response in responses:
            if response == "bad":
                raise KeyError("no bad words")
            yield 0.0

    with pytest.raises(JudgeError, match=r"judge lazy raised KeyError.*sample 1.*the dog.*bad"):
        call_judge("lazy", lazy, COLUMNS)


def test_a_judge_that_returns_nothing_fails_on_its_first_sample():
    with pytest.raises(JudgeError, match=r"judge silent .*None.*sample 0.*the cat.*good"):
        call_judge("silent", lambda p, y: None, COLUMNS)


def test_a_judge_that_raises_on_whole_batches_only_is_told_so():
    def small(prompts, responses):
        if len(prompts) > 1:
            raise MemoryError("too many")
        return [0.0]

    with pytest.raises(JudgeError, match=r"judge small raised MemoryError: too many .*whole batch.*no sample alone"):
        call_judge("small", small, COLUMNS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_sample(value):
    with pytest.raises(JudgeError, match=rf"judge odd returned {value}, not a finite number, on sample 2.*a day.*nice"):
        call_judge("odd", lambda p, y: [0.0, 1.0, value], COLUMNS)


@pytest.mark.parametrize("value", ["0.7", None, [1.0], np.array([0.1, 0.9]), torch.tensor([0.1, 0.9])], ids=repr)
def test_a_value_that_is_no_number_is_refused_with_its_sample(value):
    with pytest.raises(JudgeError, match=r"(?s)judge odd returned .*not a number, on sample 0.*the cat.*good"):
        call_judge("odd", lambda p, y: [value, 1.0, 2.0], COLUMNS)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_values_than_samples_is_refused(count):
    with pytest.raises(JudgeError, match=rf"judge short returned {count} values for 3 samples"):
        call_judge("short", lambda p, y: [0.0] * count, COLUMNS)


@pytest.mark.parametrize("value", [-0.01, 1.01])
def test_a_probability_outside_0_and_1_is_refused(value):
    with pytest.raises(JudgeError, match=r"judge odd returned .*not a number in \[0, 1\], on sample 1.*the dog"):
        call_judge("odd", lambda p, y: [0.0, value, 1.0], COLUMNS, low=0.0, high=1.0)


def test_the_ends_of_the_range_are_allowed():
    assert call_judge("sure", lambda p, y: [0.0, 1.0, 0.5], COLUMNS, low=0.0, high=1.0) == [0.0, 1.0, 0.5]


def test_a_long_sample_is_shortened_in_the_message():
    with pytest.raises(JudgeError) as caught:
        call_judge("odd", lambda p, y: [math.nan], (["word " * 500], ["good"]))
    assert len(str(caught.value)) < 250


def test_a_judge_that_changes_what_it_is_given_changes_nothing_for_the_run():
    records = [{"topic": {"name": "cats"}}] * 3  # one row, given for three responses

    def greedy(prompts, responses, records):
        lengths = [len(record.pop("topic").pop("name")) for record in records]
        prompts.clear()
        responses.reverse()
        return lengths

    columns = (["the cat"] * 3, ["good", "bad", "nice"], records)
    assert call_judge("greedy", greedy, columns) == [4, 4, 4]
    assert columns == (["the cat"] * 3, ["good", "bad", "nice"], [{"topic": {"name": "cats"}}] * 3)


def test_a_judge_that_changes_the_working_directory_changes_it_for_itself_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def restless(prompts, responses):
        os.chdir("elsewhere")
        yield from [0.0] * len(prompts)

    assert call_judge("restless", restless, COLUMNS) == [0, 0, 0]
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize("values", [{"good": 1, "bad": 2, "nice": 3}, {1.0, 2.0, 3.0}, "123"])
def test_values_without_an_order_are_refused_by_their_type(values):
    with pytest.raises(JudgeError, match=rf"judge odd .* it returned a {type(values).__name__}: it must return a list"):
        call_judge("odd", lambda p, y: values, COLUMNS)
    with pytest.raises(JudgeError, match=f"it returned a {type(values).__name__}"):
        RewardFunction(lambda p, y, r: values).compare(*COLUMNS, COLUMNS[1], [{}] * 3)


@pytest.mark.parametrize("reward", [1e39, -1e300])
def test_a_reward_that_float32_does_not_hold_is_refused_with_its_sample(reward):
    with pytest.raises(JudgeError, match=r"judge large returned .*, not a number that float32 holds, on sample 1"):
        call_judge("large", lambda p, y: [0.0, reward, 0.0], COLUMNS)
