"""The win rate is a mean over comparisons; its interval is one over prompts, and knows what ties are."""

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


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_wins_alone_leave_a_doubt_that_falls_with_their_number(value):
    few, many = (measured(torch.full((count,), value), torch.arange(count)) for count in (20, 200))
    for rate, low, high in (few, many):
        assert rate == value
        assert (low if value == 0 else high) == value
    assert 0.05 < few[2] - few[1] < 0.2
    assert 5 < (few[2] - few[1]) / (many[2] - many[1]) < 15


def test_ties_alone_leave_little_doubt():
    rate, low, high = measured(torch.full((48,), 0.5), torch.arange(48))
    assert rate == 0.5
    assert 0.47 < low < 0.48
    assert high == pytest.approx(1 - low)


def test_the_interval_without_ties_is_wilsons_at_students_quantile():
    wins, t = torch.tensor([1.0] * 30 + [0.0] * 20), 2.009575  # of 49 degrees of freedom
    middle, half = (30 + t**2 / 2) / (50 + t**2), t * (50 * 0.24 + t**2 / 4) ** 0.5 / (50 + t**2)
    assert measured(wins, torch.arange(50)) == pytest.approx([0.6, middle - half, middle + half], abs=1e-5)


def test_the_rate_is_the_mean_over_comparisons():
    wins, prompts = torch.tensor([1.0, 0.5, 0.0, 1.0, 1.0]), torch.tensor([7, 7, 3, 3, 3])
    assert measured(wins, prompts)[0] == pytest.approx(3.5 / 5)


def test_a_single_prompt_has_a_rate_and_no_interval():
    rate, low, high = measured(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([5, 5, 5]))
    assert rate == pytest.approx(2 / 3)
    assert low != low
    assert high != high


def test_the_interval_is_that_of_a_mean_of_independent_prompts():
    wins, prompts = some(400)
    rate, low, high = measured(wins, prompts)
    half = 1.96 * (wins.var(unbiased=False) / 400).sqrt().item()
    assert low == pytest.approx(rate - half, abs=0.1 * half)
    assert high == pytest.approx(rate + half, abs=0.1 * half)


def test_repeating_every_comparison_within_its_prompt_changes_nothing():
    wins, prompts = some()
    assert measured(wins.repeat(5), prompts.repeat(5)) == pytest.approx(measured(wins, prompts), abs=0.01)


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
    assert metric.compute()[0] == 1


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
