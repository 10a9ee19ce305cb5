"""Intervals cover the truth as often as they say, which is computed exactly: by going through all that can be seen."""

import math

import pytest
import torch

from lit_align.evaluation.intervals import ClusteredMean, mean_interval, rate_interval, student_quantile

RATES = torch.linspace(0.5, 0.999, 250, dtype=torch.float64)
NEIGHBOURS = 25  # rates, five percentage points wide, whose mean coverage is looked at
ROUNDING = 1e-12


def covered(low, high, truth):
    return (low <= truth + ROUNDING) & (truth - ROUNDING <= high)


def coverage_of_single_responses(prompts, ties):
    """For every rate, of so many independent comparisons: the trinomial law of wins, ties and losses, summed.

    ``ties`` is the share of ties in the most that there can be at a rate: at 1 nothing but ties and wins is seen.
    """
    wins, tied = torch.meshgrid(*[torch.arange(prompts + 1, dtype=torch.float64)] * 2, indexing="ij")
    wins, tied = wins[wins + tied <= prompts], tied[wins + tied <= prompts]
    lost, rate = prompts - wins - tied, (wins + tied / 2) / prompts
    squares = wins * (1 - rate) ** 2 + tied * (0.5 - rate) ** 2 + lost * rate**2
    seen = ClusteredMean(rate, squares / prompts / (prompts - 1), prompts, prompts, prompts)
    low, high = rate_interval(seen)
    share_tied = 2 * ties * torch.minimum(RATES, 1 - RATES)[:, None]
    share_won = RATES[:, None] - share_tied / 2
    share_lost = (1 - share_won - share_tied).clamp(min=0)
    ways = math.lgamma(prompts + 1) - sum(torch.lgamma(count + 1) for count in (wins, tied, lost))
    terms = zip((wins, tied, lost), (share_won, share_tied, share_lost), strict=True)
    chances = (ways + sum(torch.xlogy(count, share) for count, share in terms)).exp()
    return (chances * covered(low, high, RATES[:, None])).sum(-1)


@pytest.mark.parametrize("ties", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("prompts", [48, 96, 160])
def test_a_win_rate_of_one_response_a_prompt_is_covered_in_94_to_97_of_100_cases(prompts, ties):
    coverage = coverage_of_single_responses(prompts, ties)
    neighbours = coverage.unfold(0, NEIGHBOURS, 1).mean(-1)
    inner = neighbours[: int(0.98 * 0.5 / 0.499 * len(neighbours))]  # at a rate of 1 coverage goes to 1
    assert inner.min() >= 0.94
    assert inner.max() <= 0.97
    assert neighbours.min() >= 0.94
    assert coverage.min() >= 0.93


@pytest.mark.parametrize("ties", [0.9, 1.0])
@pytest.mark.parametrize("prompts", [48, 160])
def test_a_win_rate_is_covered_in_91_of_100_cases_where_hardly_anything_but_wins_and_ties_is_seen(prompts, ties):
    assert coverage_of_single_responses(prompts, ties).min() >= 0.91


def beta_binomial(size, rate, alike):
    """The law of the wins of a cluster whose comparisons correlate so much."""
    wins = torch.arange(size + 1, dtype=torch.float64)
    ways = math.lgamma(size + 1) - torch.lgamma(wins + 1) - torch.lgamma(size - wins + 1)
    if alike == 0:
        return (ways + torch.xlogy(wins, torch.tensor(rate)) + torch.xlogy(size - wins, torch.tensor(1 - rate))).exp()
    a, b = rate * (1 - alike) / alike, (1 - rate) * (1 - alike) / alike
    above, below = torch.lgamma(wins + a) + torch.lgamma(size - wins + b), math.lgamma(size + a + b)
    return (ways + above - below + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)).exp()


def coverage_of_clusters(clusters, size, alike, rates):
    """Convolve the joint law of the sum and the sum of squares of the wins of clusters of equal size."""
    terms = clusters * size
    total = torch.arange(terms + 1, dtype=torch.float64)[:, None]
    squares = torch.arange(clusters * size**2 + 1, dtype=torch.float64)
    variance = (squares - total**2 / clusters).clamp(min=0) / terms**2 * clusters / (clusters - 1)
    seen = ClusteredMean((total / terms).expand_as(variance), variance, terms, clusters, clusters)
    low, high = rate_interval(seen)
    found = []
    for rate in rates:
        one = torch.zeros_like(variance)
        wins = torch.arange(size + 1)
        one[wins, wins**2] = beta_binomial(size, rate, alike)
        law = torch.fft.irfft2(torch.fft.rfft2(one) ** clusters, s=one.shape)
        found.append(float((law * covered(low, high, rate)).sum()))
    return found


@pytest.mark.parametrize("alike", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("prompts", "responses"), [(48, 4), (96, 2)])
def test_a_win_rate_of_several_responses_a_prompt_is_covered_in_94_of_100_cases(prompts, responses, alike):
    found = torch.tensor(coverage_of_clusters(prompts, responses, alike, [0.5, 0.7, 0.8, 0.9, 0.925, 0.95, 0.975]))
    assert found.unfold(0, 3, 1).mean(-1).min() >= 0.94
    assert found.min() >= 0.93
    assert found.mean() <= 0.97


@pytest.mark.parametrize("alike", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("families", "prompts"), [(6, 8), (12, 8)])
def test_a_win_rate_over_few_topic_families_is_covered_in_94_of_100_cases(families, prompts, alike):
    found = coverage_of_clusters(families, prompts, alike, [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert min(found) >= 0.94


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (95, 1.98525)]
)
def test_students_quantile_is_that_of_the_tables(freedom, quantile):
    assert student_quantile(0.95, freedom) == pytest.approx(quantile, abs=1e-4)


def test_a_mean_of_numbers_has_students_interval():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    low, high = mean_interval(ClusteredMean.of(values, torch.arange(4)))
    half = 3.18245 * (values.var() / 4).sqrt()
    assert float(low) == pytest.approx(float(4 - half), abs=1e-4)
    assert float(high) == pytest.approx(float(4 + half), abs=1e-4)


def test_the_variance_of_a_mean_of_clusters_is_that_of_the_means_of_clusters_where_these_are_of_equal_size():
    values = torch.randn(6, 5)
    found = ClusteredMean.of(values.flatten(), torch.arange(6).repeat_interleave(5))
    torch.testing.assert_close(found.variance, values.double().mean(1).var() / 6)
    assert (found.terms, found.clusters) == (30, 6)
    assert found.alike == pytest.approx(6)


def test_a_large_cluster_leaves_fewer_that_would_be_as_good():
    found = ClusteredMean.of(torch.randn(10), torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 3, 4]))
    assert found.alike == pytest.approx(100 / 40)


def test_one_cluster_says_nothing_of_others():
    for interval in (mean_interval, rate_interval):
        assert all(end.isnan() for end in interval(ClusteredMean.of(torch.rand(5), torch.zeros(5).long())))
