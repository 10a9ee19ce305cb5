"""Laws of the learning rate: a linear rise, then constant or down towards 0, the same in every cycle."""

import pytest

from lit_align.iteration.optimizers import learning_rate_factor

SCHEDULES = ["constant", "linear", "cosine"]


def factors(steps, warmup, schedule, count=None):
    return [learning_rate_factor(i, steps=steps, warmup=warmup, schedule=schedule) for i in range(count or steps)]


def test_by_hand():
    assert factors(6, 2, "constant") == pytest.approx([1 / 3, 2 / 3, 1, 1, 1, 1])
    assert factors(6, 2, "linear") == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4])
    assert factors(4, 0, "cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_cycle_is_the_same(schedule):
    assert factors(5, 1, schedule, count=10) == factors(5, 1, schedule) * 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_no_step_is_wasted_and_the_peak_is_reached_once_warm(schedule, warmup):
    values = factors(8, warmup, schedule)
    assert all(0 < value <= 1 for value in values)
    assert values[warmup] == 1
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_no_longer_than_its_rise_ends_at_the_peak(schedule):
    for steps, warmup in ((1, 1), (2, 3)):
        values = [
            learning_rate_factor(i, steps=steps, warmup=warmup, schedule=schedule, again=False)
            for i in range(warmup + 2)
        ]
        assert values[warmup:] == [1.0, 1.0]
        assert values[:warmup] == sorted(values[:warmup])
