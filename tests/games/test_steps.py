"""Exact steps: what they maximise, which of them coincide, and where their iterates go on rock-paper-scissors."""

import pytest
import torch
from hypothesis import given

from lit_align.games import (
    dpo_step,
    inpo_step,
    nash_md_step,
    onpo_step,
    rock_paper_scissors,
    sppo_step,
    win_rates,
    wind_equilibrium,
    wind_iterates,
    wind_step,
)
from tests.games.instances import FEW, KINDS, laws, random_laws, random_preferences, random_rewards, vector

RPS, START = rock_paper_scissors(), vector(0.5, 0.3, 0.2)


def maximiser(objective, responses):
    """argmax of objective(law) over laws, from uniform, by a generic optimiser."""
    logits = torch.zeros(responses, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        loss = -objective(logits.softmax(0))
        loss.backward()
        return loss

    solver.step(closure)
    return logits.detach().softmax(0)


def divergence(p, q):
    return (p * (p / q).log()).sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("beta", "eta"), [(0.1, 0.4), (0.5, 5.0), (0.0, 1.0)])
def test_T4_the_step_is_the_argmax_of_its_proximal_objective(kind, beta, eta):
    for seed in range(3):
        anchor, reference = random_laws(5, seed=seed), random_laws(5, seed=seed + 10)
        preference = random_preferences(kind, 5, seed=seed)
        rates = preference @ anchor

        def objective(law, rates=rates, anchor=anchor, reference=reference):
            return law @ rates - beta * divergence(law, reference) - divergence(law, anchor) / eta

        step = wind_step(anchor, reference, preference, beta=beta, eta=eta)
        torch.testing.assert_close(step, maximiser(objective, 5), atol=1e-7, rtol=0)


def test_nash_mirror_descent_is_the_argmax_of_its_proximal_objective():
    anchor, reference, preference = random_laws(5), random_laws(5, seed=1), random_preferences("skew", 5)
    eta, tau = 0.8, 0.3
    mixture = anchor ** (1 - eta * tau) * reference ** (eta * tau)
    mixture = mixture / mixture.sum()
    step = nash_md_step(anchor, reference, preference, eta=eta, tau=tau)
    best = maximiser(lambda law: law @ preference @ mixture - divergence(law, mixture) / eta, 5)
    torch.testing.assert_close(step, best, atol=1e-7, rtol=0)


def test_optimistic_mirror_descent_plays_the_prediction_and_moves_its_base_by_what_happened():
    base, prediction, preference, eta = random_laws(5), random_rewards(5), random_preferences("skew", 5), 0.7
    step = onpo_step(base, prediction, preference, eta=eta)
    policy = maximiser(lambda law: law @ prediction - divergence(law, base) / eta, 5)
    torch.testing.assert_close(step.policy, policy, atol=1e-7, rtol=0)
    torch.testing.assert_close(step.win_rates, preference @ step.policy)
    following = maximiser(lambda law: law @ step.win_rates - divergence(law, base) / eta, 5)
    torch.testing.assert_close(step.base, following, atol=1e-7, rtol=0)


def test_the_step_of_dpo_is_the_argmax_of_reward_minus_divergence():
    anchor, rewards = random_laws(6), random_rewards(6)
    best = maximiser(lambda law: law @ rewards - 0.4 * divergence(law, anchor), 6)
    torch.testing.assert_close(dpo_step(anchor, rewards, beta=0.4), best, atol=1e-7, rtol=0)


@FEW
@given(laws(5), laws(5))
def test_T10_without_a_pull_wind_is_the_step_of_sppo(anchor, reference):
    preference = random_preferences("skew", 5)
    wind = wind_step(anchor, reference, preference, beta=0.0, eta=1.7)
    torch.testing.assert_close(wind, sppo_step(anchor, preference, eta=1.7), atol=1e-15, rtol=1e-14)
    weights = anchor * torch.exp(1.7 * (preference @ anchor))
    torch.testing.assert_close(wind, weights / weights.sum(), atol=1e-15, rtol=1e-13)


@FEW
@given(laws(5), laws(5))
def test_T10_wind_is_the_step_of_inpo_with_its_eta_at_beta_plus_one_over_eta(anchor, reference):
    preference = random_preferences("coin-flips", 5)
    for beta, eta in ((0.1, 0.3), (0.5, 10.0)):
        wind = wind_step(anchor, reference, preference, beta=beta, eta=eta)
        inpo = inpo_step(anchor, reference, preference, eta=beta + 1 / eta, tau=beta)
        torch.testing.assert_close(wind, inpo, atol=1e-15, rtol=1e-13)


def test_a_vanishing_pull_or_step_leaves_what_it_should():
    anchor, reference, preference = random_laws(5), random_laws(5, seed=1), random_preferences("skew", 5)
    torch.testing.assert_close(wind_step(anchor, reference, preference, beta=0.1, eta=1e-12), anchor)
    torch.testing.assert_close(wind_step(anchor, reference, preference, beta=1e12, eta=1.0), reference)
    response = (reference.log() + preference @ anchor / 0.2).softmax(-1)
    torch.testing.assert_close(inpo_step(anchor, reference, preference, eta=0.2, tau=0.2), response)


def test_huge_steps_neither_overflow_nor_leave_the_simplex():
    anchor, preference = random_laws(5), random_preferences("skew", 5)
    for step in (
        sppo_step(anchor, preference, eta=1e6),
        dpo_step(anchor, random_rewards(5), beta=1e-6),
        onpo_step(anchor, random_rewards(5), preference, eta=1e6).policy,
    ):
        assert step.max() == 1
        assert step.sum() == 1


def test_responses_of_probability_zero_keep_it():
    anchor, reference = vector(0.5, 0.5, 0), vector(0, 0.5, 0.5)
    assert wind_step(anchor, reference, RPS, beta=0.1, eta=1.0).tolist() == [0, 1, 0]
    assert inpo_step(anchor, reference, RPS, eta=1.0, tau=0.1).tolist() == [0, 1, 0]
    assert nash_md_step(anchor, reference, RPS, eta=1.0, tau=0.1).tolist() == [0, 1, 0]
    for step in (sppo_step(anchor, RPS, eta=1.0), dpo_step(anchor, START, beta=1.0)):
        assert step[2] == 0
        assert (step[:2] > 0).all()


@pytest.mark.parametrize(
    "step",
    [
        lambda a, r, p: wind_step(a, r, p, beta=0.1, eta=0.4),
        lambda a, r, p: inpo_step(a, r, p, eta=1.0, tau=0.1),
        lambda a, r, p: nash_md_step(a, r, p, eta=1.0, tau=0.1),
        lambda a, r, p: onpo_step(a, win_rates(r, p), p, eta=1.0).base,
    ],
)
def test_rows_are_stepped_as_if_they_were_alone(step):
    anchors, references, preferences = random_laws(2, 3, 4), random_laws(3, 4), random_preferences("skew", 3, 4)
    together = step(anchors, references, preferences)
    for i in range(3):
        torch.testing.assert_close(together[1, i], step(anchors[1, i], references[i], preferences[i]))


@pytest.mark.slow
def test_on_rock_paper_scissors_multiplicative_weights_spiral_out_and_optimism_converges():
    spiral = wind_iterates(START, RPS, beta=0.0, eta=0.12, iterations=4000)
    torch.testing.assert_close(spiral, vector(0.379, 0.010, 0.611), atol=5e-4, rtol=0)
    step = onpo_step(START, torch.zeros(3, dtype=torch.float64), RPS, eta=0.12)
    for _ in range(3999):
        step = onpo_step(step.base, step.win_rates, RPS, eta=0.12)
    torch.testing.assert_close(step.policy, vector(0.336, 0.346, 0.317), atol=5e-4, rtol=0)


def test_nash_mirror_descent_at_a_constant_step_is_biased_by_order_eta_where_wind_and_inpo_are_not():
    # One row for rock-paper-scissors, the others random.
    preference = torch.cat([RPS[None], random_preferences("skew", 5, 3)])
    reference, tau = torch.cat([START[None], random_laws(5, 3)]), 0.2
    solution = wind_equilibrium(reference, preference, beta=tau)
    biases = []
    for eta in (0.125, 0.25, 2.0):
        policy = reference
        for _ in range(round(40 / eta / tau)):
            policy = nash_md_step(policy, reference, preference, eta=eta, tau=tau)
        again = nash_md_step(policy, reference, preference, eta=eta, tau=tau)
        assert (again - policy).abs().max() < 1e-9
        biases.append((policy - solution).abs().sum(-1))
        wind = wind_iterates(reference, preference, beta=tau, eta=eta, iterations=2000)
        assert (wind - solution).abs().max() <= 1e-13
    assert biases[0].min() > 1e-5
    torch.testing.assert_close(biases[1] / biases[0], torch.full((6,), 2.0, dtype=torch.float64), atol=0.1, rtol=0)
    assert (biases[2] > 5 * biases[1]).all()
    inpo = reference
    for _ in range(200):
        inpo = inpo_step(inpo, reference, preference, eta=tau + 1 / 2.0, tau=tau)
    assert (inpo - solution).abs().max() <= 1e-13
