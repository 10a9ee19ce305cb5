"""Gradients of draws: their mean over all groups is the enumerated gradient, and that is what the sampler's draws give.

Away from the anchor, as in the middle of an iteration: at its first step all log-ratios are 0.
"""

import pytest
import torch

from lit_align import DPO, INPO, SPPO, WIND, AcceleratedPO, Sampler
from tests.games.instances import random_laws
from tests.laws.instances import collected, every_group, gradient, gradient_of, judged, on, place, random_game

START, HERE = random_laws(1, 4, spread=0.5), random_laws(1, 4, seed=1, spread=0.5)
PAIRED = {
    "INPO": (INPO, {"eta": 1.0, "tau": 0.3}),
    "DPO": (DPO, {"beta": 0.5, "eps": 0.1}),
    "AcceleratedPO ipo": (AcceleratedPO, {"objective": "ipo", "beta": 0.5}),
}


def one_context(copies=1):
    return random_game("bradley_terry", contexts=1, responses=4, copies=copies, spread=0.5)


def enumerated(algorithm, **options):
    """The population gradient at HERE of an iteration that began at START."""
    module = on(one_context(), algorithm, start=START, **options)
    rollouts = collected(module)
    place(module.policy, HERE)
    return gradient(module, rollouts)


def sppo_population():
    """The mean of the squared errors of log-ratios from the win rates less one half, over beta."""
    rates = (one_context().preference @ START[..., None]).squeeze(-1)
    return gradient_of(lambda law: (START * ((law / START).log() - (rates - 0.5) / 0.5) ** 2).sum(), HERE)


def over_all_groups(algorithm, size, **options):
    module = on(one_context(), algorithm, sampler=Sampler(group_size=size), **options)
    place(module.policy, HERE)
    groups, chances = every_group(*[START[0]] * size)
    return gradient(module, judged(module, groups, START[0]), chances)


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize(("pairing", "size"), [("random", 2), ("random", 3), ("random", 4), ("all", 3), ("all", 4)])
def test_pairs_of_draws_have_the_enumerated_gradient_in_the_mean(name, pairing, size):
    algorithm, options = PAIRED[name]
    expected = enumerated(algorithm, pairing="all", **options)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(over_all_groups(algorithm, size, pairing=pairing, **options), expected)


@pytest.mark.parametrize(("pairing", "size"), [("random", 2), ("random", 4), ("all", 3), ("all", 4)])
def test_win_rates_against_the_others_make_sppo_unbiased_and_against_the_whole_group_biased(pairing, size):
    options, expected = {"beta": 0.5, "pairing": pairing}, sppo_population()
    torch.testing.assert_close(enumerated(SPPO, beta=0.5, pairing="all"), expected)
    torch.testing.assert_close(over_all_groups(SPPO, size, opponents="others", **options), expected)
    assert (over_all_groups(SPPO, size, opponents="group", **options) - expected).abs().max() > 1e-3


def drawn(algorithm, copies, **options):
    """One gradient for every copy of the game, each from 64 draws, compared once."""
    game = one_context(copies)
    sampler = Sampler(group_size=64, max_new_tokens=1)
    module = on(game, algorithm, start=START.expand(copies, -1), sampler=sampler, **options)
    rollouts = collected(module)
    place(module.policy, HERE.expand(copies, -1))
    return gradient(module, rollouts)


SAMPLED = {
    # Centring within the group takes one in 64 off, and is exact but for that.
    "WIND": (WIND, {"beta": 0.3, "eta": 1.2}, lambda: enumerated(WIND, beta=0.3, eta=1.2) * (1 - 1 / 64)),
    "SPPO": (SPPO, {"beta": 0.5, "pairing": "random"}, lambda: sppo_population()),
    "INPO": (INPO, {"eta": 1.0, "tau": 0.3}, lambda: enumerated(INPO, eta=1.0, tau=0.3, pairing="all")),
    "DPO": (DPO, {"beta": 0.5, "pairing": "random"}, lambda: enumerated(DPO, beta=0.5, pairing="all")),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_the_mean_gradient_of_the_samplers_draws_is_within_four_standard_errors(name):
    algorithm, options, population = SAMPLED[name]
    copies, expected = 400, population()[0]
    gradients = drawn(algorithm, copies, **options)
    width = gradients.std(0) / copies**0.5
    assert ((gradients.mean(0) - expected).abs() < 4 * width).all()
    assert (width < expected.abs().max() / 20).all()
