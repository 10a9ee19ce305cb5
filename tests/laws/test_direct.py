"""Direct methods as modules, trained through Lightning: an iteration ends at the minimiser their losses promise."""

import pytest
import torch

from lit_align import AIPO, EXO, IPO, XPO, AlphaDPO, ChiPO, SimPO
from lit_align.games.enumeration import Enumeration
from lit_align.games.lab import play
from tests.games.instances import random_laws
from tests.laws.instances import collected, distance, divergence, on, place, random_game, row_losses
from tests.losses.chi_squared import chi_squared_law

BETA = 0.5


def tilted(law, log_weights):
    return (law.log() + log_weights).softmax(-1)


def iterated(kind, algorithm, **options):
    """The game, a random law, and the law one exact iteration later."""
    game, start = random_game(kind), random_laws(3, 5)
    laws = play(on(game, algorithm, start=start, **options), iterations=1).laws
    torch.testing.assert_close(laws[0], start, atol=1e-12, rtol=0)
    return game, start, laws[1]


def test_an_iteration_of_ipo_is_the_regularised_best_response_to_where_it_started():
    game, start, found = iterated("skew", IPO, tau=BETA, pairing="all")
    win_rates = torch.einsum("xyz,xz->xy", game.preference, start)
    torch.testing.assert_close(found, tilted(game.reference, win_rates / BETA), atol=1e-6, rtol=0)
    of_the_reference = torch.einsum("xyz,xz->xy", game.preference, game.reference)
    assert distance(found, tilted(game.reference, of_the_reference / BETA)) > 1e-2


def test_an_iteration_of_aipo_raises_where_it_started_to_the_power_of_one_and_alpha():
    game, start, found = iterated("bradley_terry", AIPO, beta=BETA, alpha=0.3, nll_weight=0.0, pairing="all")
    torch.testing.assert_close(found, tilted(start**1.3, game.rewards / BETA), atol=1e-6, rtol=0)


def test_an_iteration_of_simpo_without_a_target_forgets_the_reference():
    game, _, found = iterated("bradley_terry", SimPO, beta=BETA, gamma=0.0, pairing="all")
    torch.testing.assert_close(found, (game.rewards / BETA).softmax(-1), atol=1e-6, rtol=0)


def test_an_iteration_of_chi_po_is_lambert_s_function_of_the_reward():
    game, _, found = iterated("bradley_terry", ChiPO, beta=BETA, r_max=50.0, pairing="all")
    laws = zip(game.reference, game.rewards, strict=True)
    expected = torch.stack([chi_squared_law(*row, BETA) for row in laws])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_an_iteration_of_exo_tilts_the_reference_by_the_reward_over_both_betas():
    game, _, found = iterated("bradley_terry", EXO, beta_policy=0.8, beta_reward=0.6)
    torch.testing.assert_close(found, tilted(game.reference, game.rewards / 0.48), atol=1e-6, rtol=0)


def moved(module, seed=7):
    """Rollouts of every response from where the module is, and the law it is moved to after."""
    rollouts = collected(module)
    law = random_laws(3, 5, seed=seed)
    place(module.policy, law)
    return rollouts, law


def test_exo_weighs_responses_by_the_law_they_were_drawn_from():
    game, start = random_game("bradley_terry"), random_laws(3, 5)
    module = on(game, EXO, start=start, beta_policy=0.8, beta_reward=0.6)
    rollouts, law = moved(module)
    q = tilted(start, 0.8 * (law / game.reference).log())
    expected = divergence(q, tilted(start, game.rewards / 0.6))
    torch.testing.assert_close(row_losses(module, rollouts)[0], expected)


def test_xpo_weighs_pairs_by_the_laws_of_the_policy_and_of_the_reference():
    game, start = random_game("skew"), random_laws(3, 5)
    module = on(game, XPO, start=start, beta=BETA, alpha=0.3, sampler=Enumeration(sources=("policy", "reference")))
    rollouts, law = moved(module)
    h = (law / game.reference).log()[:, :, None] - (law / game.reference).log()[:, None, :]
    logistic = -game.preference * (BETA * h).sigmoid().log() - (1 - game.preference) * (-BETA * h).sigmoid().log()
    expected = torch.einsum("xy,xz,xyz->x", start, game.reference, logistic)
    expected = expected + 0.3 * (game.reference * law.log()).sum(-1)
    torch.testing.assert_close(row_losses(module, rollouts)[0], expected)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
def test_an_iteration_of_xpo_tilts_the_reference_by_the_reward_and_optimism_takes_from_what_it_says(alpha):
    sampler = Enumeration(sources=("policy", "reference"))
    game, _, found = iterated("bradley_terry", XPO, beta=BETA, alpha=alpha, sampler=sampler)
    expected = tilted(game.reference, game.rewards / BETA)
    if alpha:
        assert distance(found, expected) > 1e-3
        explored = (game.reference * found.log()).sum(-1) - (game.reference * expected.log()).sum(-1)
        assert (explored < 0).all()
    else:
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_alpha_dpo_takes_its_statistics_of_all_pairs_and_labels_and_none_in_the_first_iteration():
    game, start = random_game("bradley_terry"), random_laws(3, 5)
    module = on(game, AlphaDPO, start=start, pairing="all")
    collected(module)
    u = start.log() - game.reference.log()
    margins = u[:, :, None] - u[:, None, :]
    chances = start[:, :, None] * start[:, None, :] * game.preference  # of a pair in this order, and of its label
    chances = chances * ~torch.eye(5, dtype=torch.bool)
    chances = chances / chances.sum()
    mean = (chances * margins).sum()
    assert module.margin_mean == pytest.approx(float(mean))
    assert module.margin_std == pytest.approx(float((chances * (margins - mean) ** 2).sum().sqrt()))
    module.iteration.fill_(0)
    collected(module)
    assert module.margin_std == 0
