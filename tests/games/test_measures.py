"""Divergence, win rates and exploitability: identities, limits, and every way of broadcasting."""

import math

import pytest
import torch
from hypothesis import given

from lit_align.games import (
    exploitability,
    kl,
    rock_paper_scissors,
    sub_optimality,
    win_rate,
    win_rates,
    wind_equilibrium,
)
from tests.games.instances import FEW, KINDS, laws, random_laws, random_preferences, regularised, vector


def test_divergence_by_hand_with_zeros_on_either_side():
    assert float(kl(vector(0.5, 0.5), vector(0.25, 0.75))) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(kl(vector(0, 1), vector(0.25, 0.75))) == pytest.approx(math.log(4 / 3))
    assert float(kl(vector(0.5, 0.5), vector(0, 1))) == math.inf
    assert float(kl(vector(0, 1), vector(0, 1))) == 0


@FEW
@given(laws(5), laws(5))
def test_divergence_is_not_negative_and_agrees_with_its_formula(p, q):
    assert float(kl(p, q)) >= 0
    assert float(kl(p, p)) == 0
    torch.testing.assert_close(kl(p, q), (p * (p / q).log()).sum(), atol=1e-14, rtol=1e-12)


def test_divergence_of_near_laws_keeps_its_digits():
    p, h = vector(0.2, 0.3, 0.5), vector(1, 1, -2)
    for size in (1e-4, 1e-7, 1e-10):
        expected = 0.5 * float((h**2 / p).sum()) * size**2
        assert float(kl(p + size * h, p)) == pytest.approx(expected, rel=max(1e-5, 100 * size), abs=0)


def test_divergence_of_a_law_that_underflows_is_finite():
    expected = -0.5 * math.log(1e-300) - math.log(2)
    assert float(kl(vector(0.5, 0.5), vector(1e-300, 1))) == pytest.approx(expected)
    assert float(kl(vector(1e-310, 1), vector(0.5, 0.5))) == pytest.approx(math.log(2))


SHAPES = [((), ()), ((4,), ()), ((), (4,)), ((4,), (4,)), ((3, 4), (4,)), ((3, 1), (4,)), ((3, 4), (3, 1))]
SHAPES += [((2, 3, 4), (3, 1)), ((4,), (3, 1)), ((2, 3, 4), (4,)), ((2,), (2,))]


@pytest.mark.parametrize(("policies", "matrices"), SHAPES)
def test_win_rates_are_the_matrix_times_the_policy_however_the_two_broadcast(policies, matrices):
    policy, preference = random_laws(*policies, 5), random_preferences("skew", *matrices, 5)
    expected = torch.einsum("...yz,...z->...y", preference, policy)
    torch.testing.assert_close(win_rates(policy, preference), expected)
    opponent = random_laws(*policies, 5, seed=1)
    torch.testing.assert_close(
        win_rate(opponent, policy, preference), (opponent * expected).sum(-1), atol=1e-15, rtol=1e-14
    )


@FEW
@given(laws(4), laws(4))
def test_win_rates_of_two_policies_against_each_other_add_to_one(first, second):
    preference = random_preferences("skew", 4)
    total = win_rate(first, second, preference) + win_rate(second, first, preference)
    assert float(total) == pytest.approx(1, abs=1e-14)
    assert float(win_rate(first, first, preference)) == pytest.approx(0.5, abs=1e-14)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.02, 0.3, 2.0])
def test_exploitability_is_the_best_responses_gain(kind, beta):
    policy, reference = random_laws(50, 5), random_laws(50, 5, seed=1)
    preference = random_preferences(kind, 50, 5)
    response = (reference.log() + win_rates(policy, preference) / beta).softmax(-1)
    gain = regularised(response, policy, preference, reference, beta) - 0.5
    found = exploitability(policy, preference, reference=reference, beta=beta)
    torch.testing.assert_close(found, gain, atol=1e-13, rtol=1e-11)
    for seed in range(5):
        other = random_laws(50, 5, seed=10 + seed, spread=3)
        assert (regularised(other, policy, preference, reference, beta) - 0.5 <= found + 1e-13).all()


def test_without_a_pull_exploitability_is_the_best_win_rate_minus_a_half():
    assert float(exploitability(vector(0.5, 0.3, 0.2), rock_paper_scissors())) == pytest.approx(0.1)
    assert float(exploitability(vector(1, 1, 1) / 3, rock_paper_scissors())) == pytest.approx(0, abs=1e-15)
    policy, reference, preference = random_laws(20, 4), random_laws(20, 4, seed=1), random_preferences("skew", 20, 4)
    nearly = exploitability(policy, preference, reference=reference, beta=1e-4)
    torch.testing.assert_close(nearly, exploitability(policy, preference), atol=1e-2, rtol=0)


def test_exploitability_vanishes_at_the_equilibrium_alone():
    reference, preference = random_laws(30, 6), random_preferences("skew", 30, 6)
    solution = wind_equilibrium(reference, preference, beta=0.1)
    assert exploitability(solution, preference, reference=reference, beta=0.1).max() < 1e-24
    moved = 0.99 * solution + 0.01 * reference
    assert exploitability(moved, preference, reference=reference, beta=0.1).min() > 1e-9


def test_a_policy_outside_the_references_support_is_infinitely_exploitable():
    found = exploitability(vector(1, 1, 1) / 3, rock_paper_scissors(), reference=vector(0.5, 0.5, 0), beta=0.1)
    assert float(found) == math.inf


def test_sub_optimality_is_the_gap_to_the_best_reward():
    assert float(sub_optimality(vector(0.2, 0.3, 0.5), vector(1, 4, 2))) == pytest.approx(0.2 * 3 + 0.5 * 2)
    assert float(sub_optimality(vector(0, 1, 0), torch.tensor([1, 4, 2]))) == 0
    assert float(sub_optimality(vector(1e-30, 1, 0), vector(0, 1, 0))) == pytest.approx(1e-30, abs=0)
