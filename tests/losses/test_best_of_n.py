"""The law of the best of n draws against brute force, and where its sum would lose its digits."""

import itertools
import math

import pytest
import torch

from lit_align.losses.best_of_n import best_of_n_ratio, cumulative, log_best_of_n_ratio


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def brute_force(weights, rewards, n):
    """Enumerate all n-tuples; the best is drawn uniformly from the positions with the best reward."""
    law = torch.zeros_like(weights)
    for draws in itertools.product(range(len(weights)), repeat=n):
        best = max(rewards[list(draws)])
        winners = [y for y in draws if rewards[y] == best]
        for y in winners:
            law[y] += weights[list(draws)].prod() / len(winners)
    return law


def test_cumulative_by_hand_with_ties_and_in_any_order():
    at_most, below = cumulative(double(0.1, 0.2, 0.3, 0.4), double(2, 1, 2, 3))
    torch.testing.assert_close(at_most, double(0.6, 0.2, 0.6, 1.0))
    torch.testing.assert_close(below, double(0.2, 0.0, 0.2, 0.6))


def test_cumulative_broadcasts_laws_over_rewards_and_takes_integers():
    weights, rewards = torch.rand(5, 1, 4, dtype=torch.float64), torch.randint(3, (2, 4))
    at_most, below = cumulative(weights, rewards)
    assert at_most.shape == below.shape == (5, 2, 4)
    for i, j in itertools.product(range(5), range(2)):
        order = rewards[j][:, None] >= rewards[j][None]
        torch.testing.assert_close(at_most[i, j], order.double() @ weights[i, 0])
        torch.testing.assert_close(below[i, j], 1.0 * (~order.T).double() @ weights[i, 0])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize("rewards", [(0.3, -1, 2, 0.5), (1, 1, 0, 2), (0, 0, 0, 0)])
def test_the_ratio_times_the_law_is_the_law_of_the_best_of_n_ties_broken_at_random(rewards, n):
    weights, rewards = double(0.1, 0.45, 0.25, 0.2), double(*rewards)
    ratio = best_of_n_ratio(*cumulative(weights, rewards), n)
    torch.testing.assert_close(weights * ratio, brute_force(weights, rewards, n), atol=1e-14, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 7, 10_000])
def test_the_ratio_is_the_sum_of_n_terms_however_close_the_two_cumulatives(n):
    at_most = double(1.0, 1.0, 0.999, 0.9999, 1 - 1e-9, 1e-3)
    below = at_most - double(0.5, 1e-14, 1e-6, 0.0, 1e-12, 1e-5)
    terms = torch.arange(1, n + 1, dtype=torch.float64)[:, None]
    expected = (at_most ** (n - terms) * below ** (terms - 1)).sum(0)
    torch.testing.assert_close(best_of_n_ratio(at_most, below, n), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("n", [1, 2, 10_000])
def test_responses_of_probability_zero_have_a_finite_ratio(n):
    at_most, below = cumulative(double(0, 0.5, 0, 0.5, 0), double(0, 1, 2, 3, 4))
    ratio = best_of_n_ratio(at_most, below, n)
    assert ratio.isfinite().all()
    torch.testing.assert_close(ratio[2], n * double(0.5).pow(n - 1)[0])
    assert ratio[4] == n
    assert ratio[0] == (n == 1)


def test_the_logarithm_goes_on_where_the_ratio_has_underflowed():
    at_most, below = double(1e-300, 0.5, 1.0), double(0.0, 0.25, 1.0)
    ratio, log_ratio = best_of_n_ratio(at_most, below, 10_000), log_best_of_n_ratio(at_most, below, 10_000)
    assert (ratio[:2] == 0).all()
    torch.testing.assert_close(
        log_ratio, double(9_999 * math.log(1e-300), 9_999 * math.log(0.5) + math.log(2), math.log(10_000))
    )
    small = best_of_n_ratio(at_most, below, 3), log_best_of_n_ratio(at_most, below, 3)
    torch.testing.assert_close(small[0][1:].log(), small[1][1:])


def test_one_draw_changes_nothing_even_of_a_response_that_is_never_drawn():
    at_most, below = double(0.0, 0.2, 1.0), double(0.0, 0.0, 0.2)
    assert best_of_n_ratio(at_most, below, 1).tolist() == [1, 1, 1]
    assert log_best_of_n_ratio(at_most, below, 1).tolist() == [0, 0, 0]


def test_a_draw_more_multiplies_the_best_responses_ratio_towards_n():
    at_most, below = double(1.0), double(1 - 1e-12)
    assert float(best_of_n_ratio(at_most, below, 64)[0]) == pytest.approx(64, rel=1e-9)


def test_float32_stays_float32():
    at_most, below = cumulative(torch.tensor([0.25, 0.75]), torch.tensor([1, 0]))
    assert best_of_n_ratio(at_most, below, 4).dtype == torch.float32
