"""The equilibrium of WIND: its equation, its rate, its uniqueness, and what it guarantees against every policy."""

import math

import pytest
import torch
from hypothesis import given

from lit_align.games import (
    hard_preference,
    kl,
    rock_paper_scissors,
    win_rate,
    win_rates,
    wind_equilibrium,
    wind_iterates,
    wind_step,
)
from tests.games.instances import FEW, KINDS, laws, random_laws, random_preferences, regularised, vector

RPS, START = rock_paper_scissors(), vector(0.5, 0.3, 0.2)


def image(policy, reference, preference, beta):
    law = (reference.log() + torch.einsum("...yz,...z->...y", preference, policy) / beta).softmax(-1)
    return torch.where(reference > 0, law, 0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [1e-3, 1e-2, 0.1, 1.0, 30.0])
def test_T4_the_equilibrium_solves_its_equation(kind, beta):
    for responses, spread, rows in ((2, 1.0, 60), (5, 3.0, 60), (40, 1.0, 4)):
        reference = random_laws(rows, responses, spread=spread)
        preference = random_preferences(kind, rows, responses)
        solution = wind_equilibrium(reference, preference, beta=beta)
        assert (solution - image(solution, reference, preference, beta)).abs().max() <= 1e-12
        assert (solution.sum(-1) - 1).abs().max() <= 1e-14


def test_the_equilibrium_of_a_total_order_by_its_published_digits():
    reference, preference = vector(0.4, 0.3, 0.2, 0.1), hard_preference(vector(1, 2, 3, 4))
    for beta, missed in ((1.0, 0.842), (0.3, 0.596), (0.1, 0.0566), (0.05, 4.1e-4), (0.03, 5.2e-7)):
        solution = wind_equilibrium(reference, preference, beta=beta)
        assert float(solution[:3].sum()) == pytest.approx(missed, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [0.05, 0.3, 1.0])
def test_T5_kl_to_the_equilibrium_contracts_by_one_plus_beta_eta(kind, beta):
    reference, preference = random_laws(80, 4), random_preferences(kind, 80, 4)
    solution = wind_equilibrium(reference, preference, beta=beta)
    for share in (0.1, 0.6, 1.0):
        eta = 4 * beta * share
        policy, distance = reference, kl(solution, reference)
        for _ in range(40):
            policy = wind_step(policy, reference, preference, beta=beta, eta=eta)
            after = kl(solution, policy)
            resolved = distance > 1e-18
            assert (after * (1 + beta * eta) <= distance * (1 + 1e-6))[resolved].all()
            distance = after


def test_T5_a_step_above_four_beta_can_diverge():
    solution = wind_equilibrium(START, RPS, beta=0.05)
    options = {"beta": 0.05, "iterations": 4000}
    assert kl(solution, wind_iterates(START, RPS, eta=0.2, **options)) < 1e-20
    assert kl(solution, wind_iterates(START, RPS, eta=1.5, **options)) > 0.1
    near = 0.999 * solution + 0.001 * START
    assert kl(solution, wind_iterates(START, RPS, eta=1.5, start=near, **options)) > 0.1


@pytest.mark.parametrize(
    ("beta", "eta", "factor"),
    [(0.05, 0.2, 0.99174), (0.05, 0.5, 0.98566), (0.05, 1.5, 1.01319), (0.2, 10.0, 0.98510), (0.3, 1000.0, 0.90391)],
)
def test_near_the_equilibrium_the_iterates_move_by_the_factor_of_the_linearised_step(beta, eta, factor):
    solution = wind_equilibrium(START, RPS, beta=beta)
    # A revolution of the spiral has about 2 pi / (eta mu) steps: averaged over many, or the factor is seen directly.
    near = solution + 1e-6 * vector(1, -2, 1)
    steps = 100
    later = wind_iterates(START, RPS, beta=beta, eta=eta, iterations=steps, start=near)
    much_later = wind_iterates(START, RPS, beta=beta, eta=eta, iterations=2 * steps, start=near)
    found = (kl(solution, much_later) / kl(solution, later)) ** (0.5 / steps)
    assert float(found) == pytest.approx(factor, abs=1e-5 if beta < 0.3 else 2e-2)


@FEW
@given(laws(5))
def test_T6_no_policy_gains_against_the_equilibrium(policy):
    for kind in KINDS:
        reference, preference = random_laws(5), random_preferences(kind, 5)
        for beta in (0.05, 0.5):
            solution = wind_equilibrium(reference, preference, beta=beta)
            assert float(regularised(policy, solution, preference, reference, beta)) <= 0.5 + 1e-12
            assert float(regularised(solution, policy, preference, reference, beta)) >= 0.5 - 1e-12


@FEW
@given(laws(5))
def test_T6_the_equilibrium_dominates_every_policy_up_to_the_price_of_its_divergence(policy):
    reference, preference, beta = random_laws(5), random_preferences("skew", 5), 0.1
    solution = wind_equilibrium(reference, preference, beta=beta)
    guaranteed = 0.5 + beta * kl(solution, reference) - beta * kl(policy, reference)
    assert float(win_rate(solution, policy, preference) - guaranteed) >= -1e-13
    # Equality would need the policy to be a best response: the bound is tight at the equilibrium alone.
    tight = 0.5 + beta * kl(solution, reference) - beta * kl(solution, reference)
    assert float(win_rate(solution, solution, preference)) == pytest.approx(float(tight), abs=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_T7_every_start_of_full_support_reaches_the_same_equilibrium(kind):
    beta, reference, preference = 0.25, random_laws(10, 5), random_preferences(kind, 10, 5)
    starts = random_laws(20, 10, 5, seed=1, spread=4)
    reached = wind_iterates(reference, preference, beta=beta, eta=4 * beta, iterations=300, start=starts)
    assert reached.shape == (20, 10, 5)
    solution = wind_equilibrium(reference, preference, beta=beta)
    torch.testing.assert_close(reached, solution.expand_as(reached), atol=1e-12, rtol=0)


def test_a_vanishing_pull_leads_to_a_nash_equilibrium_and_a_strong_one_to_the_reference():
    torch.testing.assert_close(wind_equilibrium(START, RPS, beta=1e-4), vector(1, 1, 1) / 3, atol=1e-3, rtol=0)
    torch.testing.assert_close(wind_equilibrium(START, RPS, beta=1e6), START, atol=1e-6, rtol=0)


def test_a_uniform_reference_solves_rock_paper_scissors_at_once():
    uniform = vector(1, 1, 1) / 3
    torch.testing.assert_close(wind_equilibrium(uniform, RPS, beta=0.01), uniform, atol=1e-15, rtol=0)


def test_responses_outside_the_reference_change_nothing_and_get_nothing():
    reference, preference = random_laws(6, 4), random_preferences("skew", 6, 5)
    wider = torch.cat([reference, torch.zeros(6, 1, dtype=torch.float64)], -1)
    solution = wind_equilibrium(wider, preference, beta=0.05)
    assert (solution[:, 4] == 0).all()
    alone = wind_equilibrium(reference, preference[:, :4, :4], beta=0.05)
    torch.testing.assert_close(solution[:, :4], alone, atol=1e-12, rtol=0)


@pytest.mark.parametrize("entries", [1, 60, 2**22])
def test_batches_of_any_shape_and_in_any_chunks_are_solved_row_by_row(entries):
    references, preferences = random_laws(2, 3, 4), random_preferences("skew", 3, 4)
    together = wind_equilibrium(references, preferences, beta=0.05, entries=entries)
    assert together.shape == (2, 3, 4)
    for i in range(3):
        alone = wind_equilibrium(references[1, i], preferences[i], beta=0.05)
        torch.testing.assert_close(together[1, i], alone, atol=1e-12, rtol=0)
    one_reference = wind_equilibrium(references[0, 0], preferences, beta=0.05, entries=entries)
    assert one_reference.shape == (3, 4)
    torch.testing.assert_close(one_reference[0], together[0, 0], atol=1e-12, rtol=0)


def test_newtons_method_says_when_it_gives_up():
    with pytest.raises(RuntimeError, match=r"have not converged at beta = 0\.01: give a larger beta"):
        wind_equilibrium(random_laws(5, 6), random_preferences("coin-flips", 5, 6), beta=0.01, steps=2)


@pytest.mark.parametrize(("starts", "matrices"), [((), ()), ((4,), ()), ((4, 3), (3,)), ((3,), (4, 3)), ((4, 1), (3,))])
@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_iterates_are_the_step_repeated_however_starts_and_matrices_broadcast(beta, starts, matrices):
    start, reference = random_laws(*starts, 5, seed=1), random_laws(*matrices, 5)
    preference = random_preferences("skew", *matrices, 5)
    policy = start
    for _ in range(7):
        policy = wind_step(policy, reference, preference, beta=beta, eta=0.7)
    found = wind_iterates(reference, preference, beta=beta, eta=0.7, iterations=7, start=start)
    torch.testing.assert_close(found, policy, atol=1e-14, rtol=1e-12)


def test_iterates_begin_at_the_reference_and_no_steps_leave_it():
    reference, preference = random_laws(3, 5), random_preferences("skew", 3, 5)
    torch.testing.assert_close(wind_iterates(reference, preference, beta=0.1, eta=0.4, iterations=0), reference)
    once = wind_iterates(reference, preference, beta=0.1, eta=0.4, iterations=1)
    torch.testing.assert_close(once, wind_step(reference, reference, preference, beta=0.1, eta=0.4))


def test_long_runs_keep_zeros_and_digits():
    reference, preference = vector(0.6, 0.4, 0), random_preferences("hard", 3)
    found = wind_iterates(reference, preference, beta=0.0, eta=5.0, iterations=2000)
    assert found[2] == 0
    loser = int(win_rates(found, preference)[:2].argmin())
    assert 0 <= float(found[loser]) < 1e-300
    assert math.isclose(float(found.sum()), 1, rel_tol=1e-15)
