"""The win rate is a mean; its interval resamples prompts, not comparisons, and covers the truth as often as it says."""

import pytest
import torch

from lit_align.evaluation.win_rate import WinRate


def measured(wins: torch.Tensor, prompts: torch.Tensor, **options) -> list[float]:
    metric = WinRate(**options)
    metric.update(wins, prompts)
    return metric.compute().tolist()


def some(count: int = 64, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Wins, losses and ties against different prompts."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (count,), generator=generator) / 2, torch.randperm(count, generator=generator) + 2**62


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_comparisons_that_all_agree_leave_no_doubt(value):
    assert measured(torch.full((20,), value), torch.arange(20)) == [value, value, value]


def test_the_rate_is_the_mean_over_comparisons():
    wins, prompts = torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0]), torch.tensor([7, 7, 3, 3, 3])
    rate, low, high = measured(wins, prompts)
    assert rate == pytest.approx(3.5 / 5)
    # Two prompts: a resample is one of them twice, or both.
    assert low == pytest.approx(2 / 3)
    assert high == pytest.approx(0.75)
    # Half of the resamples are both, and then every comparison counts alike.
    assert measured(wins, prompts, confidence=0.1) == pytest.approx([0.7, 0.7, 0.7])


def test_the_interval_is_that_of_a_mean_of_independent_prompts():
    wins, prompts = some(400)
    rate, low, high = measured(wins, prompts)
    half = 1.96 * (wins.var(unbiased=False) / 400).sqrt().item()
    assert low == pytest.approx(rate - half, abs=0.1 * half)
    assert high == pytest.approx(rate + half, abs=0.1 * half)


def test_repeating_every_comparison_within_its_prompt_changes_nothing():
    wins, prompts = some()
    assert measured(wins.repeat(5), prompts.repeat(5)) == pytest.approx(measured(wins, prompts))


def test_taking_repeats_for_other_prompts_would_narrow_the_interval():
    wins, prompts = some()
    _, low, high = measured(wins, prompts)
    _, narrow_low, narrow_high = measured(wins.repeat(4), torch.arange(len(wins) * 4))
    assert (narrow_high - narrow_low) == pytest.approx((high - low) / 2, rel=0.15)


def test_swapping_policy_and_opponent_mirrors_the_interval():
    wins, prompts = some()
    rate, low, high = measured(wins, prompts)
    assert measured(1 - wins, prompts) == pytest.approx([1 - rate, 1 - high, 1 - low])


def test_more_confidence_is_a_wider_interval_inside_0_and_1():
    wins, prompts = some(16)
    intervals = [measured(wins, prompts, confidence=c) for c in (0.5, 0.9, 0.99)]
    lows, highs = [i[1] for i in intervals], [i[2] for i in intervals]
    assert 0 <= lows[2] < lows[1] < lows[0] < intervals[0][0] < highs[0] < highs[1] < highs[2] <= 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """64 prompts of unequal difficulty, 3 comparisons each, 200 times over; the mean of the Beta law is 2/3."""
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(200):
        uniforms = torch.rand(64, 2, generator=generator)
        difficulty = uniforms.max(1).values  # Beta(2, 1)
        wins = (torch.rand(64, 3, generator=generator) < difficulty[:, None]).float()
        prompts = torch.arange(64)[:, None].expand(64, 3)
        _, low, high = measured(wins.flatten(), prompts.flatten(), resamples=500)
        covered += low <= 2 / 3 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_order_changes_nothing():
    wins, prompts = some()
    order = torch.randperm(len(wins))
    assert measured(wins[order], prompts[order]) == measured(wins, prompts)


def test_updates_in_parts_are_one_update():
    wins, prompts = some()
    metric = WinRate()
    for part, asked in zip(wins.split(10), prompts.split(10), strict=True):
        metric.update(part, asked)
    assert metric.compute().tolist() == measured(wins, prompts)
    metric.reset()
    metric.update(torch.ones(2), torch.arange(2))
    assert metric.compute().tolist() == [1, 1, 1]


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0])
def test_a_confidence_outside_0_and_1_is_refused(confidence):
    with pytest.raises(ValueError, match=r"confidence must lie in \(0, 1\)"):
        WinRate(confidence)


def test_a_missing_comparison_has_no_part_in_a_win_rate():
    whole, partial = WinRate(), WinRate()
    whole.update(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1, 2, 4]))
    partial.update(torch.tensor([1.0, 0.0, torch.nan, 1.0]), torch.tensor([1, 2, 3, 4]))
    torch.testing.assert_close(partial.compute(), whole.compute())
    nothing = WinRate()
    nothing.update(torch.tensor([torch.nan]), torch.tensor([1]))
    assert nothing.compute().isnan().all()
