"""Best-of-n and iterative BOND: composition, closed forms, fixed points, and where the two games differ."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_align.games import (
    best_of_n,
    bond_beta,
    bond_step,
    bradley_terry_preference,
    dominance,
    hard_preference,
    kl,
    log_win_rate_equilibrium,
    wind_equilibrium,
)
from tests.games.instances import FEW, laws, random_laws, random_rewards, vector


def log_image(policy, reference, dominances, beta):
    """The map whose fixed points are the log-win-rate equilibria."""
    win = torch.einsum("...yz,...z->...y", dominances, policy)
    law = reference * win ** (1 / beta)
    return law / law.sum(-1, keepdim=True)


def iterate(step, policy, times):
    for _ in range(times):
        policy = step(policy)
    return policy


@pytest.mark.parametrize("n", [1, 2, 3, 16])
def test_T1_the_law_is_a_difference_of_powers_and_sums_to_one(n):
    policy, rewards = random_laws(200, 6), random_rewards(200, 6)
    at_most = torch.einsum("...yz,...z->...y", dominance(rewards), policy)
    law = best_of_n(policy, rewards, n)
    torch.testing.assert_close(law, at_most**n - (at_most - policy) ** n, atol=1e-14, rtol=0)
    torch.testing.assert_close(law.sum(-1), torch.ones(200, dtype=torch.float64), atol=1e-14, rtol=0)


@FEW
@given(laws(5), st.integers(1, 6), st.integers(1, 6))
def test_T1_the_best_of_n_of_the_best_of_m_is_the_best_of_nm(policy, n, m):
    for rewards in (vector(1, 5, 3, 2, 4), vector(1, 5, 5, 2, 1)):
        twice = best_of_n(best_of_n(policy, rewards, m), rewards, n)
        torch.testing.assert_close(twice, best_of_n(policy, rewards, n * m), atol=1e-14, rtol=0)


@FEW
@given(laws(6), st.integers(1, 64))
def test_T1_the_divergence_of_the_best_of_n_stays_below_log_n_minus_n_minus_one_over_n(policy, n):
    found = kl(best_of_n(policy, vector(0, 1, 2, 3, 4, 5), n), policy)
    assert 0 <= float(found) <= math.log(n) - (n - 1) / n + 1e-13


def test_T1_the_bound_on_the_divergence_is_reached_by_many_rare_responses():
    policy = torch.full((20_000,), 1 / 20_000, dtype=torch.float64)
    found = kl(best_of_n(policy, torch.arange(20_000), 4), policy)
    assert float(found) == pytest.approx(math.log(4) - 3 / 4, abs=1e-6)


@pytest.mark.parametrize("n", [2, 4])
def test_T2_exact_bond_without_mixing_misses_the_best_response_with_probability_to_the_n_to_the_t(n):
    reference, rewards = random_laws(50, 6), random_rewards(50, 6)
    best = rewards.argmax(-1, keepdim=True)
    others = torch.ones_like(reference).scatter(-1, best, 0)
    missed = (reference * others).sum(-1)
    policy = reference
    for t in range(1, 5):
        policy = bond_step(policy, reference, n=n, rewards=rewards)
        torch.testing.assert_close((policy * others).sum(-1), missed ** (n**t), rtol=1e-9, atol=1e-300)


def test_T2_with_the_law_of_many_responses_the_missing_probability_falls_to_zero():
    reference, rewards = random_laws(50, 6), random_rewards(50, 6)
    others = torch.ones_like(reference).scatter(-1, rewards.argmax(-1, keepdim=True), 0)
    policy, missed = reference, (reference * others).sum(-1)
    for _ in range(40):
        policy = bond_step(policy, reference, n=2, dominance=dominance(rewards))
        below = (policy * others).sum(-1)
        assert ((below < missed) | (below == 0)).all()
        missed = below
    assert missed.max() < 1e-300


RATES = [(2, 0.2, 0.1), (4, 0.1, 0.2), (3, 0.25, 0.0)]


@pytest.mark.parametrize(("n", "a1", "a2"), RATES)
@pytest.mark.parametrize("kind", ["dominance", "bradley-terry"])
def test_T3_with_mixing_the_limit_is_the_log_win_rate_equilibrium(kind, n, a1, a2):
    beta = bond_beta(n, a1=a1, a2=a2)
    assert beta == pytest.approx((1 - a1 - a2) / ((n - 1) * a1))
    assert beta > 1
    reference, rewards = random_laws(50, 5), random_rewards(50, 5)
    dominances = dominance(rewards) if kind == "dominance" else bradley_terry_preference(rewards)
    limit = iterate(lambda p: bond_step(p, reference, n=n, dominance=dominances, a1=a1, a2=a2), reference, 200)
    assert (limit - log_image(limit, reference, dominances, beta)).abs().max() <= 1e-12
    torch.testing.assert_close(limit, log_win_rate_equilibrium(reference, dominances, beta=beta), atol=1e-10, rtol=0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_T3_bradley_terry_limits_are_interior_and_solve_the_equation_for_every_beta(beta):
    reference, preference = random_laws(30, 5), bradley_terry_preference(random_rewards(30, 5))
    solution = log_win_rate_equilibrium(reference, preference, beta=beta)
    assert (solution - log_image(solution, reference, preference, beta)).abs().max() <= 1e-12
    assert solution.min() > 1e-20
    elsewhere = random_laws(30, 5, seed=7)
    step = {"n": 2, "a1": 1 / (1 + beta), "dominance": preference}
    other = iterate(lambda p: bond_step(p, reference, **step), elsewhere, round(80 * (1 + 1 / beta)))
    torch.testing.assert_close(other, solution, atol=1e-9, rtol=0)


def test_T3_the_exact_law_has_another_limit():
    reference, rewards = random_laws(20, 5), random_rewards(20, 5)
    n, a1, a2 = 4, 0.1, 0.2
    limit = iterate(lambda p: bond_step(p, reference, n=n, rewards=rewards, a1=a1, a2=a2), reference, 200)
    again = bond_step(limit, reference, n=n, rewards=rewards, a1=a1, a2=a2)
    assert (again - limit).abs().max() < 1e-12
    game = log_win_rate_equilibrium(reference, dominance(rewards), beta=bond_beta(n, a1=a1, a2=a2))
    assert (limit - game).abs().sum(-1).min() > 1e-3
    assert (limit - game).abs().sum(-1).max() > 3e-2


def test_the_log_game_has_two_equilibria_where_the_win_rate_game_has_one():
    reference, rewards, beta = vector(0.99, 0.01), vector(0, 1), 0.1
    step = {"n": 2, "a1": 1 / (1 + beta), "dominance": dominance(rewards)}
    near = iterate(lambda p: bond_step(p, reference, **step), reference, 500)
    far = iterate(lambda p: bond_step(p, reference, **step), vector(0.01, 0.99), 500)
    assert float(near[1]) == pytest.approx(0.011176, abs=5e-7)
    assert float(far[1]) == 1
    torch.testing.assert_close(log_win_rate_equilibrium(reference, dominance(rewards), beta=beta), near)
    unstable = vector(1 - 0.318485, 0.318485)
    assert (log_image(unstable, reference, dominance(rewards), beta) - unstable).abs().max() < 1e-5
    single = wind_equilibrium(reference, hard_preference(rewards), beta=beta)
    assert float(single[1]) == pytest.approx(0.599859, abs=1e-6)


def test_hard_preferences_and_a_small_beta_lead_the_log_game_to_a_point_mass():
    rewards = vector(3, 1, 2)
    solution = log_win_rate_equilibrium(vector(0.4, 0.3, 0.3), dominance(rewards), beta=0.2)
    assert solution.tolist() == [1, 0, 0]


def test_an_equilibrium_out_of_reach_is_an_error_that_says_what_to_change():
    reference, dominances = random_laws(3, 4), dominance(random_rewards(3, 4))
    with pytest.raises(RuntimeError, match=r"after 20 iterations at beta = 0\.9: give more"):
        log_win_rate_equilibrium(reference, dominances, beta=0.9, iterations=20)


def test_rows_are_solved_as_if_they_were_alone_and_broadcast():
    references, dominances = random_laws(4, 3, 5), dominance(random_rewards(3, 5))
    together = log_win_rate_equilibrium(references, dominances, beta=1.5)
    assert together.shape == (4, 3, 5)
    for i in range(3):
        alone = log_win_rate_equilibrium(references[2, i], dominances[i], beta=1.5)
        torch.testing.assert_close(together[2, i], alone, atol=1e-11, rtol=0)


@pytest.mark.parametrize(("a1", "a2"), [(1.0, 0.0), (0.5, 0.2), (0.9, 0.1)])
def test_responses_that_the_reference_never_gives_are_never_given(a1, a2):
    reference, rewards = vector(0.5, 0, 0.5), vector(1, 3, 2)
    for law in ({"rewards": rewards}, {"dominance": dominance(rewards)}):
        policy = iterate(lambda p, law=law: bond_step(p, reference, n=3, a1=a1, a2=a2, **law), reference, 3)
        assert policy[1] == 0
        assert policy.sum() == pytest.approx(1)
    assert log_win_rate_equilibrium(reference, dominance(rewards), beta=2.0)[1] == 0


def test_a_weight_on_the_policy_itself_is_a_geometric_mixture_with_it():
    policy, reference, rewards = random_laws(5), random_laws(5, seed=1), random_rewards(5)
    expected = best_of_n(policy, rewards, 3) ** 0.5 * policy**0.2 * reference**0.3
    found = bond_step(policy, reference, n=3, rewards=rewards, a1=0.5, a2=0.2)
    torch.testing.assert_close(found, expected / expected.sum())
