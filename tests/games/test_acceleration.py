"""Momentum: the tilt it accumulates, the bounds that follow, and what it costs on noise and on cycles."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_align.games import (
    apo_coefficients,
    apo_tilt,
    dpo_step,
    extrapolate,
    kl,
    rock_paper_scissors,
    sppo_step,
    sub_optimality,
    tilt_bound,
)
from tests.games.instances import FEW, generator, laws, random_laws, random_preferences, random_rewards, vector

ALPHAS = [0.0, 0.3, 0.6, 0.9]


def run(step, reference, alpha, iterations):
    """(hatpi_T, pi_T) of APO: proximal steps from extrapolated policies."""
    policy = hat = reference
    for t in range(iterations):
        new = step(policy, t)
        policy, hat = extrapolate(new, hat, alpha=alpha), new
    return hat, policy


def tilted(reference, rewards, weight):
    law = reference * torch.exp(weight * rewards)
    return law / law.sum(-1, keepdim=True)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_A2_after_t_iterations_the_policy_is_the_reference_tilted_by_w(alpha):
    reference, rewards = random_laws(20, 6), random_rewards(20, 6)
    for iterations in range(1, 13):
        hat, policy = run(lambda p, t: dpo_step(p, rewards, beta=0.5), reference, alpha, iterations)
        weight = apo_tilt(iterations, alpha=alpha) / 0.5
        torch.testing.assert_close(hat, tilted(reference, rewards, weight), atol=1e-13, rtol=0)
        extrapolated = (apo_tilt(iterations + 1, alpha=alpha) - 1) / 0.5
        torch.testing.assert_close(policy, tilted(reference, rewards, extrapolated), atol=1e-13, rtol=0)


def test_A2_the_tilt_by_its_published_digits():
    for alpha, digits in ((0.3, (1, 2.3, 3.69, 5.107, 6.532)), (0.6, (1, 2.6, 4.56, 6.736, 9.042))):
        found = [apo_tilt(t, alpha=alpha) for t in range(1, 6)]
        assert found == pytest.approx(digits, abs=5e-4)


@FEW
@given(st.floats(0, 0.99), st.integers(0, 300))
def test_A2_the_tilt_is_its_closed_form(alpha, iterations):
    closed = iterations / (1 - alpha) - alpha * (1 - alpha**iterations) / (1 - alpha) ** 2
    assert apo_tilt(iterations, alpha=alpha) == pytest.approx(closed, rel=1e-9, abs=1e-9)


def test_A3_without_momentum_the_tilt_is_the_number_of_iterations():
    assert [apo_tilt(t, alpha=0.0) for t in range(5)] == [0, 1, 2, 3, 4]


def test_A3_the_log_odds_of_the_best_grow_by_partial_sums_of_the_geometric_series():
    reference, rewards, beta = random_laws(4), vector(0, 1, 3, 2.5), 0.5
    hats = [run(lambda p, t: dpo_step(p, rewards, beta=beta), reference, 0.5, n)[0] for n in range(8)]
    odds = [float((hat[2] / hat[3]).log()) for hat in hats]
    grown = [(after - before) / (0.5 / beta) for before, after in itertools.pairwise(odds)]
    assert grown == pytest.approx([2 - 0.5**t for t in range(7)], abs=1e-10)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_A4_sub_optimality_stays_below_lamberts_bound(alpha):
    reference, rewards, beta = random_laws(200, 6, spread=2), random_rewards(200, 6), 0.3
    best = reference.gather(-1, rewards.argmax(-1, keepdim=True))[:, 0]
    for iterations in (1, 3, 10, 30):
        hat, _ = run(lambda p, t: dpo_step(p, rewards, beta=beta), reference, alpha, iterations)
        bounds = [tilt_bound(float(p), apo_tilt(iterations, alpha=alpha) / beta) for p in best]
        assert (sub_optimality(hat, rewards) <= vector(*bounds) * (1 + 1e-12)).all()


def test_A4_lamberts_bound_is_reached_and_its_simpler_form_is_broken():
    p, tilt = 0.491, 5.62
    gaps = torch.linspace(0, 3, 3001, dtype=torch.float64)
    reference = vector(p, 1 - p).expand(3001, 2)
    rewards = torch.stack([torch.zeros_like(gaps), -gaps], -1)
    worst = float(sub_optimality(tilted(reference, rewards, tilt), rewards).max())
    assert worst > 3 * math.log((1 - p) / p) / tilt
    assert worst == pytest.approx(tilt_bound(p, tilt), rel=1e-5)
    assert worst <= tilt_bound(p, tilt) * (1 + 1e-12)


@pytest.mark.parametrize("best", [1e-300, 1e-6, 0.2, 0.5, 0.999999, 1.0])
def test_A4_the_bound_solves_lamberts_equation(best):
    w = tilt_bound(best, 1.0)
    assert w * math.exp(w) == pytest.approx((1 - best) / (math.e * best), rel=1e-12, abs=0)
    assert tilt_bound(best, 4.0) == pytest.approx(w / 4)


def test_A4_with_many_responses_sub_optimality_falls_as_one_over_the_accelerated_tilt():
    rewards = torch.linspace(-1, 1, 4000, dtype=torch.float64)
    reference = torch.full((4000,), 1 / 4000, dtype=torch.float64)
    for alpha, published in ((0.0, 0.1854), (0.3, 0.1265), (0.6, 0.0680)):
        hat, _ = run(lambda p, t: dpo_step(p, rewards, beta=0.2), reference, alpha, 60)
        assert 60 * float(sub_optimality(hat, rewards)) == pytest.approx(published, abs=5e-5)
        # beta (1 - alpha) in the limit of many iterations and of a continuum of rewards.
        assert 60 * float(sub_optimality(hat, rewards)) == pytest.approx(0.2 * (1 - alpha), rel=0.16)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_A5_the_missing_probability_of_the_best_falls_exponentially_in_the_tilt(alpha):
    reference, rewards, beta = random_laws(200, 5), random_rewards(200, 5), 0.5
    top = rewards.topk(2, -1)
    p, gap = reference.gather(-1, top.indices[:, :1])[:, 0], top.values[:, 0] - top.values[:, 1]
    for iterations in (1, 5, 20):
        hat, _ = run(lambda p, t: dpo_step(p, rewards, beta=beta), reference, alpha, iterations)
        missed = hat.scatter(-1, top.indices[:, :1], 0.0).sum(-1)
        assert (missed <= (1 - p) / p * torch.exp(-apo_tilt(iterations, alpha=alpha) * gap / beta) * (1 + 1e-9)).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9])
def test_A6_a_beta_and_rewards_for_each_iteration_enter_with_their_coefficients(alpha):
    betas = [0.5, 0.7, 1.0, 2.0, 1.5]
    reference, rewards = random_laws(10, 4), random_rewards(5, 10, 4)
    hat, _ = run(lambda p, t: dpo_step(p, rewards[t], beta=betas[t]), reference, alpha, 5)
    weights = apo_coefficients(5, alpha=alpha) / vector(*betas)
    tilt = torch.einsum("t,tby->by", weights, rewards)
    torch.testing.assert_close(hat, tilted(reference, tilt, 1.0), atol=1e-13, rtol=0)


def test_A6_the_papers_schedule_of_betas_by_hand():
    betas = vector(0.01, 0.1, 1.0)
    assert (apo_coefficients(3, alpha=0.3) / betas).tolist() == pytest.approx([139, 13, 1])
    assert float((apo_coefficients(3, alpha=0.3) / betas).sum()) == pytest.approx(153)
    assert float((apo_coefficients(3, alpha=0.0) / betas).sum()) == pytest.approx(111)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.6])
def test_A7_general_preferences_with_a_dominating_response_converge_at_the_accelerated_rate(alpha):
    eta, gap = 1.5, 0.05
    reference = random_laws(100, 5, spread=1.0)
    preference = 0.5 + 0.4 * (random_preferences("skew", 100, 5) - 0.5)
    best = preference[:, 1:, 1:].amax(1).clamp(min=0.5) + gap  # exceeds every rival by the gap, against everyone
    preference[:, 0, 1:], preference[:, 1:, 0] = best, 1 - best
    p = reference[:, 0]
    missed = []
    for iterations in (1, 10, 40):
        hat, _ = run(lambda q, t: sppo_step(q, preference, eta=eta), reference, alpha, iterations)
        missed.append(hat[:, 1:].sum(-1))
        bound = (1 - p) / p * torch.exp(vector(-apo_tilt(iterations, alpha=alpha) * eta * gap))
        assert (missed[-1] <= bound * (1 + 1e-9)).all()
    assert (missed[2] < missed[1]).all()


def test_A7_more_momentum_is_closer_to_the_dominating_response():
    reference, preference = vector(0.1, 0.5, 0.4), torch.full((3, 3), 0.5, dtype=torch.float64)
    preference[0, 1:], preference[1:, 0] = 0.55, 0.45
    alphas = (0.0, 0.3, 0.6)
    hats = [run(lambda q, t: sppo_step(q, preference, eta=1.5), reference, alpha, 40)[0] for alpha in alphas]
    missed = [float(hat[1:].sum()) for hat in hats]
    # Its rivals lose to it by the same 0.05 whatever the policy: the win rates differ by a constant.
    expected = [9 / (9 + math.exp(0.05 * 1.5 * apo_tilt(40, alpha=alpha))) for alpha in alphas]
    assert missed == pytest.approx(expected, rel=1e-9)
    assert missed[0] > 2 * missed[1] > 4 * missed[2]


def test_A8_on_rock_paper_scissors_momentum_grows_the_cycle():
    reference, uniform = vector(0.36, 0.33, 0.31), vector(1, 1, 1) / 3
    preference = rock_paper_scissors().mT
    for alpha, last in ((0.0, 2.63e-3), (0.3, 4.4e-3), (0.6, 0.268)):
        distances = [
            float(kl(uniform, run(lambda p, t: sppo_step(p, preference, eta=0.1), reference, alpha, n)[0]))
            for n in (1, 400)
        ]
        assert distances == pytest.approx([1.89e-3, last], rel=2e-2)


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.316), (0.3, 0.434), (0.6, 0.688)])
def test_A9_noise_of_the_rewards_is_amplified_by_the_norm_of_the_coefficients(alpha, expected):
    iterations, sd, beta, draws = 10, 0.05, 0.5, 20_000
    predicted = sd / beta * float(apo_coefficients(iterations, alpha=alpha).square().sum().sqrt())
    assert predicted == pytest.approx(expected, abs=5e-4)
    noise = sd * torch.randn(iterations, draws, 2, dtype=torch.float64, generator=generator(0))
    hat, _ = run(lambda p, t: dpo_step(p, noise[t], beta=beta), vector(0.5, 0.5), alpha, iterations)
    # The log-odds of two responses carry the noise of both.
    measured = float((hat[:, 0] / hat[:, 1]).log().std()) / math.sqrt(2)
    assert measured == pytest.approx(predicted, rel=0.03)


def test_A11_the_result_is_the_policy_before_its_last_extrapolation():
    reference, rewards = random_laws(6), random_rewards(6)
    hat, extrapolated = run(lambda p, t: dpo_step(p, rewards, beta=5.0), reference, 0.6, 3)
    torch.testing.assert_close(hat, tilted(reference, rewards, 4.56 / 5), atol=1e-13, rtol=0)
    torch.testing.assert_close(extrapolated, tilted(reference, rewards, 5.736 / 5), atol=1e-13, rtol=0)
    assert (hat - extrapolated).abs().max() > 1e-2


@FEW
@given(laws(4), laws(4), st.floats(0, 0.99))
def test_extrapolation_is_linear_in_the_log_odds(new, previous, alpha):
    found = extrapolate(new, previous, alpha=alpha).log()
    expected = (1 + alpha) * new.log() - alpha * previous.log()
    torch.testing.assert_close(found - found[0], expected - expected[0], atol=1e-11, rtol=1e-11)


def test_extrapolation_without_momentum_or_without_movement_changes_nothing_and_keeps_zeros():
    new, previous = vector(0.2, 0.8, 0), vector(0.5, 0.25, 0.25)
    torch.testing.assert_close(extrapolate(new, previous, alpha=0.0), new)
    torch.testing.assert_close(extrapolate(previous, new, alpha=0.0), previous)
    torch.testing.assert_close(extrapolate(new, new, alpha=0.5), new)
    assert extrapolate(new, previous, alpha=0.5)[2] == 0
    assert extrapolate(new, previous.expand(3, 3), alpha=0.0).shape == (3, 3)
