"""Iterative BOND as a module: its exact gradient, what it converges to between anchor moves, what draws change."""

import pytest
import torch

from lit_align import IterativeBOND, Previous, Sampler
from lit_align.games import best_of_n, bond_step, dominance, geometric_mixture
from lit_align.games.enumeration import Enumeration
from lit_align.games.lab import play
from tests.games.instances import random_laws
from tests.laws.instances import (
    collected,
    distance,
    divergence,
    every_group,
    every_two,
    gradient,
    gradient_of,
    judged,
    on,
    place,
    random_game,
    sgd,
)

LAWS = ["exact", "approximate"]
MIXING = {"a1": 0.5, "a2": 0.2}
BOTH = Enumeration(sources=("policy", "anchor"))


def target_of(game, anchor, n, law):
    """The law that is distilled: best-of-n, or its approximation for many responses."""
    if law == "exact":
        return best_of_n(anchor, game.rewards, n)
    at_most = (dominance(game.rewards) @ anchor[..., None]).squeeze(-1)
    return geometric_mixture((1.0, anchor), tilt=(n - 1) * at_most.log())


def objective(pi, target, anchor, reference, *, beta, a1=1.0, a2=0.0):
    """What IterativeBOND says it minimises."""
    jeffreys = (1 - beta) * divergence(target, pi) + beta * divergence(pi, target)
    return (a1 * jeffreys + a2 * divergence(pi, anchor) + (1 - a1 - a2) * divergence(pi, reference)).sum()


def moved_on(module, anchor, law):
    """The module in the middle of an anchor's time: its anchor is one law, its policy has gone on to another."""
    place(module.policy, anchor)
    module.begin()
    place(module.policy, law)
    module.iteration.fill_(1)
    return module


@pytest.mark.parametrize("mixing", [{}, MIXING], ids=["no mixing", "mixing"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("law", LAWS)
def test_the_enumerated_gradient_is_that_of_the_mixed_jeffreys_divergence(law, beta, mixing):
    if beta == 0 and mixing:
        with pytest.raises(ValueError, match=r"needs model\.beta > 0"):
            on(random_game("bradley_terry"), IterativeBOND, beta=beta, **mixing)
        return
    game, anchor, pi = random_game("bradley_terry"), random_laws(3, 5), random_laws(3, 5, seed=1)
    module = on(game, IterativeBOND, n=3, beta=beta, law=law, anchor=Previous(every=9), **mixing)
    found = gradient(moved_on(module, anchor, pi), collected(module))
    target = target_of(game, anchor, 3, law)
    expected = gradient_of(lambda pi: objective(pi, target, anchor, game.reference, beta=beta, **mixing), pi)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("law", LAWS)
def test_T1_each_time_the_anchor_moves_the_policy_becomes_its_best_of_n_and_two_moves_are_best_of_n_squared(law, beta):
    game, every = random_game("bradley_terry", contexts=2, responses=3, spread=0.3), 40
    module = on(game, IterativeBOND, n=2, beta=beta, law=law, anchor=Previous(every=every), optimizer=sgd(2 * 4.0))
    laws = play(module, iterations=2 * every).laws
    once = target_of(game, game.reference, 2, law)
    torch.testing.assert_close(laws[every], once, atol=1e-4, rtol=0)
    twice = target_of(game, once, 2, law)
    assert distance(once, twice) > 0.1
    torch.testing.assert_close(laws[2 * every], twice, atol=3e-3, rtol=0)
    if law == "exact":
        best = game.rewards.argmax(-1, keepdim=True)
        missing = (1 - game.reference.gather(-1, best)) ** 4  # T2: 1 - pi_t(y*) = (1 - pi_0(y*))^(n^t)
        torch.testing.assert_close(1 - laws[2 * every].gather(-1, best), missing, atol=3e-3, rtol=0)


@pytest.mark.parametrize("law", LAWS)
def test_the_backward_divergence_with_mixing_reaches_the_mixing_step(law):
    game, every = random_game("bradley_terry", contexts=2, responses=4, spread=0.3), 50
    options = {"anchor": Previous(every=every), "optimizer": sgd(2 * 4.0)}
    laws = play(on(game, IterativeBOND, n=2, beta=1.0, law=law, **MIXING, **options), iterations=2 * every).laws
    source = {"rewards": game.rewards} if law == "exact" else {"dominance": dominance(game.rewards)}
    expected = game.reference
    for done in (every, 2 * every):
        expected = bond_step(expected, game.reference, n=2, **source, **MIXING)
        torch.testing.assert_close(laws[done], expected, atol=1e-4, rtol=0)
    assert distance(expected, game.reference) > 5e-2


def from_draws(size, beta, *, pi, anchor, n=2, **options):
    """The module on one context, every group of one policy and so many anchor responses, and how likely each is."""
    game = random_game("bradley_terry", contexts=1, responses=3)
    sampler = Sampler(sources=("policy", *["anchor"] * size))
    module = on(game, IterativeBOND, start=pi, n=n, beta=beta, sampler=sampler, **options)
    groups, chances = every_group(pi[0], *[anchor[0]] * size)
    return game, module, judged(module, groups, anchor[0]), chances


@pytest.mark.parametrize(("n", "size"), [(2, 2), (2, 4), (3, 4)])
def test_the_forward_gradient_of_draws_is_unbiased_at_every_number_of_anchor_draws(n, size):
    pi, anchor = random_laws(1, 3), random_laws(1, 3, seed=1)
    game, module, rollouts, chances = from_draws(size, 0.0, pi=pi, anchor=anchor, n=n)
    expected = gradient_of(lambda pi: divergence(best_of_n(anchor, game.rewards, n), pi).sum(), pi)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient(module, rollouts, chances), expected)


def backward_gradient(pi, target):
    return gradient_of(lambda law: divergence(law, target).sum(), pi)


def test_the_backward_gradient_of_draws_is_that_of_the_series_of_the_log_quantile_up_to_the_number_of_anchor_draws():
    pi, anchor = random_laws(1, 3), random_laws(1, 3, seed=1)
    errors = []
    for size in (2, 4, 7):
        game, module, rollouts, chances = from_draws(size, 1.0, pi=pi, anchor=anchor)
        mean = gradient(module, rollouts, chances)
        at_most = (dominance(game.rewards) @ anchor[..., None]).squeeze(-1)
        log_quantile = -sum((1 - at_most) ** power / power for power in range(1, size + 1))
        distilled = geometric_mixture((1.0, anchor), tilt=log_quantile)
        torch.testing.assert_close(mean, backward_gradient(pi, distilled))
        truth = backward_gradient(pi, target_of(game, anchor, 2, "approximate"))
        errors.append(float((mean - truth).abs().max()))
    assert errors[0] > errors[1] > errors[2] > 1e-4


def test_mixing_adds_its_two_divergences_to_the_gradient_of_draws():
    pi, anchor = random_laws(1, 3), random_laws(1, 3, seed=1)
    game, plain, rollouts, chances = from_draws(2, 0.5, pi=pi, anchor=anchor)
    _, mixed, *_ = from_draws(2, 0.5, pi=pi, anchor=anchor, **MIXING)
    a1, a2 = MIXING["a1"], MIXING["a2"]
    pulls = gradient_of(
        lambda pi: (a2 * divergence(pi, anchor) + (1 - a1 - a2) * divergence(pi, game.reference)).sum(), pi
    )
    expected = a1 * gradient(plain, rollouts, chances) + pulls
    torch.testing.assert_close(gradient(mixed, rollouts, chances), expected)


def test_baselines_from_the_other_prompts_leave_the_mean_gradient_alone():
    pi, anchor = random_laws(1, 3), random_laws(1, 3, seed=1)
    _, module, rollouts, chances = from_draws(2, 0.5, pi=pi, anchor=anchor)
    based, chance_of_two = every_two(module, rollouts, chances)
    assert based.baselines.abs().max() > 0.1
    torch.testing.assert_close(gradient(module, based, chance_of_two), gradient(module, rollouts, chances))
