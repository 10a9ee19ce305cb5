"""SPPO, INPO and Nash-MD as modules: the step each iteration is, where a heuristic bends it, where the run ends."""

from dataclasses import replace

import pytest
import torch

from lit_align import INPO, SPPO, WIND, NashMD, Sampler
from lit_align.games import geometric_mixture, inpo_step, kl, sppo_step, wind_equilibrium, wind_iterates, wind_step
from lit_align.games.enumeration import Enumeration
from lit_align.games.lab import play
from tests.games.instances import random_laws
from tests.laws.instances import (
    collected,
    distance,
    divergence,
    every_group,
    gradient,
    gradient_of,
    judged,
    minimised,
    on,
    random_game,
    row_losses,
    sgd,
)

BETA, ETA = 0.3, 1.2
AS_WIND = {"eta": BETA + 1 / ETA, "tau": BETA, "pairing": "all"}
TAU = 0.3


@pytest.mark.parametrize("kind", ["skew", "bradley_terry"])
def test_T9_with_the_log_partition_as_offset_an_iteration_is_the_exact_step_however_large(kind):
    game, start = random_game(kind), random_laws(3, 5)
    for beta in (0.1, 1.0):
        module = on(game, SPPO, start=start, beta=beta, offset="partition", pairing="all")
        expected = sppo_step(start, game.preference, eta=1 / beta)
        assert distance(expected, start) > 1e-2
        torch.testing.assert_close(play(module, iterations=1).laws[1], expected, atol=1e-6, rtol=0)


def test_T9_one_half_as_offset_is_nearly_exact_for_small_steps_and_biased_at_third_order_in_the_step():
    game = random_game("skew", responses=6)

    def bias(beta):
        module = on(game, SPPO, beta=beta, offset="half", pairing="all")
        return distance(play(module, iterations=1).laws[1], sppo_step(game.reference, game.preference, eta=1 / beta))

    assert bias(0.1) > 0.05
    assert bias(1.0) < 1e-3
    assert bias(1.0) / bias(2.0) == pytest.approx(8, rel=0.25)


def test_iterations_of_sppo_are_multiplicative_weights():
    game = random_game("skew")
    laws = play(on(game, SPPO, beta=1.0, offset="partition", pairing="all"), iterations=6).laws
    expected = wind_iterates(game.reference, game.preference, beta=0.0, eta=1.0, iterations=6)
    torch.testing.assert_close(laws[-1], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["skew", "bradley_terry"])
def test_T8_an_iteration_of_inpo_is_its_step_and_that_of_wind(kind):
    for seed in range(2):
        game, start = random_game(kind, seed=seed), random_laws(3, 5, seed=seed)
        law = play(on(game, INPO, start=start, **AS_WIND), iterations=1).laws[1]
        expected = inpo_step(start, game.reference, game.preference, eta=BETA + 1 / ETA, tau=BETA)
        assert distance(expected, start) > 1e-2
        torch.testing.assert_close(law, expected, atol=1e-6, rtol=0)
        wind = play(on(game, WIND, start=start, beta=BETA, eta=ETA), iterations=1).laws[1]
        torch.testing.assert_close(law, wind, atol=1e-6, rtol=0)


def test_iterations_of_inpo_stay_on_the_path_of_wind_and_approach_the_equilibrium():
    game = random_game("skew")
    laws = play(on(game, INPO, **AS_WIND), iterations=8).laws
    for done in (4, 8):
        expected = wind_iterates(game.reference, game.preference, beta=BETA, eta=ETA, iterations=done)
        torch.testing.assert_close(laws[done], expected, atol=1e-6, rtol=0)
    gaps = kl(wind_equilibrium(game.reference, game.preference, beta=BETA), laws)
    assert ((1 + BETA * ETA) * gaps[1:] <= gaps[:-1] + 1e-9).all()


@pytest.mark.parametrize("mu", ["reference", "uniform", "anchor"])
def test_T8_single_comparisons_are_right_only_of_pairs_drawn_from_the_anchor(mu):
    game, start = random_game("skew"), random_laws(3, 5)
    weights = {"reference": game.reference, "uniform": torch.full_like(start, 0.2), "anchor": start}[mu]
    module = on(game, INPO, start=start, **AS_WIND)
    rollouts = replace(collected(module), weights=weights)
    found = minimised(module, lambda: row_losses(module, rollouts)[0].sum())
    error = distance(found, wind_step(start, game.reference, game.preference, beta=BETA, eta=ETA))
    assert error < 1e-6 if mu == "anchor" else error > 1e-2


def mixture_of(law, reference, weight):
    return geometric_mixture((1 - weight, law), (weight, reference))


def nash_md_limit(game, weight):
    """The law that is its own regularised best response to its mixture with the reference."""
    law = game.reference
    for _ in range(600):
        rates = (game.preference @ mixture_of(law, game.reference, weight)[..., None]).squeeze(-1)
        law = geometric_mixture((0.8, law), (0.2, (game.reference.log() + rates / TAU).softmax(-1)))
    return law


def test_the_mean_gradient_of_nash_md_is_that_of_the_regularised_win_rate_against_the_mixture():
    game, law, weight = random_game("skew", contexts=1, responses=4), random_laws(1, 4), 0.3
    module = on(
        game, NashMD, start=law, tau=TAU, sampler=Sampler(sources=("policy", "mixture", "policy"), mixture=weight)
    )
    mixture = mixture_of(law, game.reference, weight)
    groups, chances = every_group(law[0], mixture[0], law[0])
    mean = gradient(module, judged(module, groups, law[0]), chances)
    expected = gradient_of(
        lambda pi: (-(pi @ game.preference[0] @ mixture[0]) + TAU * divergence(pi, game.reference)).sum(), law
    )
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(mean, expected)

    enumerating = on(
        game, NashMD, start=law, tau=TAU, sampler=Enumeration(sources=("policy", "mixture"), mixture=weight)
    )
    torch.testing.assert_close(gradient(enumerating, collected(enumerating)), expected)


@pytest.mark.parametrize("weight", [0.0, 0.125, 0.5])
def test_nash_md_ends_where_its_mixture_is_the_opponent_and_without_one_alone_at_the_equilibrium(weight):
    game = random_game("skew", contexts=2, responses=3, seed=1)
    sampler = Enumeration(sources=("policy", "mixture"), mixture=weight)
    # Twice the rate: the loss is a mean over two contexts.
    law = play(on(game, NashMD, tau=TAU, sampler=sampler, optimizer=sgd(2 * 12.0)), iterations=60).laws[-1]
    torch.testing.assert_close(law, nash_md_limit(game, weight), atol=1e-4, rtol=0)
    bias = distance(law, wind_equilibrium(game.reference, game.preference, beta=TAU))
    assert bias < 1e-4 if weight == 0 else bias > 1e-3


def test_the_bias_of_nash_md_shrinks_in_proportion_to_the_mixtures_weight():
    game = random_game("skew", contexts=2, responses=3, seed=1)
    equilibrium = wind_equilibrium(game.reference, game.preference, beta=TAU)
    half, small, smaller = (distance(nash_md_limit(game, weight), equilibrium) for weight in (0.5, 0.02, 0.01))
    assert half > small > smaller > 0
    assert small / smaller == pytest.approx(2, rel=0.05)
