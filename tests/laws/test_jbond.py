"""J-BOND as a module: the mean gradient of its three draws is that of its objective, wherever the slots stand."""

import math

import pytest
import torch

from lit_align import JBOND, Sampler
from lit_align.games import hard_preference
from lit_align.games.game import Game
from tests.games.instances import random_laws, vector
from tests.laws.instances import divergence, every_group, every_two, gradient, gradient_of, judged, on, random_game

ORDERS = [("policy", "anchor", "anchor"), ("anchor", "policy", "anchor"), ("anchor", "anchor", "policy")]


def a_game(kind, responses=4):
    if kind == "ties":
        rewards = vector(0.0, 1.0, 1.0, 3.0)[None, :responses]
        return Game(random_laws(1, responses, seed=3), hard_preference(rewards), rewards=rewards)
    return random_game(kind, contexts=1, responses=responses)


def triples(game, pi, anchor, *, sources=ORDERS[0], **options):
    """The module, every triple of draws, and how likely each is."""
    module = on(game, JBOND, start=pi, sampler=Sampler(sources=sources), **options)
    groups, chances = every_group(*[(pi if source == "policy" else anchor)[0] for source in sources])
    return module, judged(module, groups, anchor[0]), chances


def objective(pi, game, anchor, *, beta, gamma):
    """What the module says it minimises: best-of-two, forward; its stand-in, backward; the pull to the anchor."""
    rates = (game.preference @ anchor[..., None]).squeeze(-1)
    best_of_two = 2 * anchor * rates
    stand_in = (anchor.log() - math.log(16) * (1 - rates) ** 2).exp()
    return (
        (1 - beta) * divergence(best_of_two, pi) + beta * divergence(pi, stand_in) + gamma * divergence(pi, anchor)
    ).sum()


@pytest.mark.parametrize("sources", ORDERS)
@pytest.mark.parametrize(("beta", "gamma"), [(0.3, 0.5), (0.0, 0.0), (1.0, 0.0)])
@pytest.mark.parametrize("kind", ["skew", "bradley_terry", "ties"])
def test_the_mean_gradient_of_three_draws_is_that_of_the_objective(kind, beta, gamma, sources):
    game, pi, anchor = a_game(kind), random_laws(1, 4), random_laws(1, 4, seed=1)
    module, rollouts, chances = triples(game, pi, anchor, sources=sources, beta=beta, gamma=gamma)
    expected = gradient_of(lambda law: objective(law, game, anchor, beta=beta, gamma=gamma), pi)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient(module, rollouts, chances), expected)


def test_baselines_from_the_other_prompts_leave_the_mean_gradient_alone():
    game, pi, anchor = a_game("skew", responses=3), random_laws(1, 3), random_laws(1, 3, seed=1)
    module, rollouts, chances = triples(game, pi, anchor, beta=0.5, gamma=0.5)
    based, chance_of_two = every_two(module, rollouts, chances)
    assert based.baselines.abs().max() > 0.1
    torch.testing.assert_close(gradient(module, based, chance_of_two), gradient(module, rollouts, chances))


def test_gamma_descends_the_divergence_from_the_anchor():
    game, pi, anchor = a_game("skew"), random_laws(1, 4), random_laws(1, 4, seed=1)

    def mean(gamma):
        return gradient(*triples(game, pi, anchor, beta=0.5, gamma=gamma))

    pull = mean(1.0) - mean(0.0)
    nearer = (pi.log() - 0.1 * pull).softmax(-1)
    assert divergence(nearer, anchor) < divergence(pi, anchor)
    assert divergence((pi.log() + 0.1 * pull).softmax(-1), anchor) > divergence(pi, anchor)


def test_a_large_gamma_stands_still_at_the_anchor_and_only_there():
    game, anchor = a_game("skew"), random_laws(1, 4, seed=1)
    ratios = []
    for pi in (anchor, random_laws(1, 4)):
        with_pull, without = (gradient(*triples(game, pi, anchor, beta=0.5, gamma=gamma)) for gamma in (100.0, 0.0))
        ratios.append(float((with_pull - without).norm()))
    assert ratios[0] < 1e-10
    assert ratios[1] > 1.0
