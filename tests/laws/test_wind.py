"""WIND as a module, trained through Lightning: every iteration is the exact step, its draws pay their known price."""

from dataclasses import replace

import pytest
import torch

from lit_align import WIND, Sampler
from lit_align.games import hard_preference, kl, rock_paper_scissors, wind_equilibrium, wind_iterates, wind_step
from lit_align.games.game import Game
from lit_align.games.judge import GameJudge
from lit_align.games.lab import play
from lit_align.losses.wind import implied_win_rates
from tests.games.instances import random_laws
from tests.laws.instances import (
    collected,
    distance,
    every_group,
    gradient,
    judged,
    minimised,
    on,
    place,
    random_game,
    row_losses,
)

RISKS = ["squared", "kl", "nce"]
BETA, ETA = 0.3, 1.2
STEP = {"beta": BETA, "eta": ETA}


@pytest.mark.parametrize("kind", ["skew", "bradley_terry"])
@pytest.mark.parametrize("risk", RISKS)
def test_T8_an_iteration_of_every_risk_is_the_exact_step_from_anywhere(risk, kind):
    for seed in range(2):
        game, start = random_game(kind, seed=seed), random_laws(3, 5, seed=seed)
        laws = play(on(game, WIND, start=start, risk=risk, **STEP), iterations=1).laws
        expected = wind_step(start, game.reference, game.preference, **STEP)
        assert distance(expected, start) > 1e-2
        torch.testing.assert_close(laws[1], expected, atol=1e-6, rtol=0)


def other_laws(start, game):
    return {"reference": game.reference, "uniform": torch.full_like(start, 1 / start.shape[-1]), "anchor": start}


@pytest.mark.parametrize("mu", ["reference", "uniform", "anchor"])
@pytest.mark.parametrize("risk", [*RISKS, "pairwise difference"])
def test_T8_with_win_rates_against_the_anchor_the_law_of_the_responses_does_not_matter(risk, mu):
    game, start = random_game("skew", contexts=1), random_laws(1, 5)
    weights = other_laws(start, game)[mu]
    module = on(game, WIND, start=start, risk="squared" if risk == "pairwise difference" else risk, **STEP)
    win_rates = (game.preference @ start[..., None]).squeeze(-1)
    rows = start.log(), game.reference.log(), win_rates

    def objective():
        logps = module.policy.distribution().log()
        if risk != "pairwise difference":
            return module.risk(logps, *rows, weights=weights).sum()
        gaps = (implied_win_rates(logps, *rows, **STEP) - win_rates)[0]
        return weights[0] @ (gaps[:, None] - gaps[None, :]) ** 2 @ weights[0]

    expected = wind_step(start, game.reference, game.preference, **STEP)
    torch.testing.assert_close(minimised(module, objective), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("risk", RISKS)
def test_the_group_is_its_own_opponent_so_draws_of_another_law_are_a_step_against_that_law(risk):
    game, start = random_game("skew"), random_laws(3, 5)
    module = on(game, WIND, start=start, risk=risk, **STEP)
    rollouts = replace(collected(module), weights=game.reference)
    found = minimised(module, lambda: row_losses(module, rollouts)[0].sum())
    scale = 1 + BETA * ETA
    rates = (game.preference @ game.reference[..., None]).squeeze(-1)
    logits = (start.log() + BETA * ETA * game.reference.log() + ETA * rates) / scale
    torch.testing.assert_close(found, logits.softmax(-1), atol=1e-6, rtol=0)
    assert distance(found, wind_step(start, game.reference, game.preference, **STEP)) > 1e-2


@pytest.mark.parametrize("risk", RISKS)
@pytest.mark.parametrize("name", ["rock, paper, scissors", "skew"])
def test_T5_kl_to_the_equilibrium_contracts_by_one_plus_beta_eta_on_the_exact_path(name, risk):
    game = random_game("skew", seed=3)
    if name == "rock, paper, scissors":
        game = Game(torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64), 0.9 * rock_paper_scissors()[None] + 0.05)
    beta, eta, iterations = 0.2, 0.8, 8
    laws = play(on(game, WIND, risk=risk, beta=beta, eta=eta), iterations=iterations).laws
    for done in (1, 3, iterations):
        exact = wind_iterates(game.reference, game.preference, beta=beta, eta=eta, iterations=done)
        torch.testing.assert_close(laws[done], exact, atol=1e-6, rtol=0)
    gaps = kl(wind_equilibrium(game.reference, game.preference, beta=beta), laws)
    assert (gaps[0] > 1e-3).all()
    assert ((1 + beta * eta) * gaps[1:] <= gaps[:-1] + 1e-9).all()


def test_T11_the_error_of_an_iteration_falls_with_the_square_root_of_the_draws():
    copies, sizes = 64, torch.tensor([32, 64, 128, 256])
    one = Game(torch.tensor([[0.4, 0.35, 0.25]]), torch.tensor([[[0.5, 0.8, 0.3], [0.2, 0.5, 0.6], [0.7, 0.4, 0.5]]]))
    game = Game(one.reference.repeat(copies, 1), one.preference.repeat(copies, 1, 1), copies=copies)
    exact = wind_step(game.reference, game.reference, game.preference, **STEP)
    errors = []
    for size in sizes.tolist():
        judge, sampler = GameJudge(game, noise="comparisons"), Sampler(group_size=size, max_new_tokens=1)
        module = on(game, WIND, judge=judge, sampler=sampler, **STEP)
        errors.append((play(module, iterations=1, seed=size).laws[1] - exact).abs().sum(-1).log())
    x = sizes.log() - sizes.log().mean()
    slopes = (x[:, None] * torch.stack(errors)).sum(0) / (x @ x)
    width = 3 * slopes.std() / copies**0.5
    assert width < 0.2
    assert abs(slopes.mean() + 0.5) < width


@pytest.mark.parametrize("size", [2, 3, 4])
def test_T12_groups_with_the_self_comparison_have_the_exact_step_as_minimiser_and_without_it_overshoot(size):
    game, start = random_game("skew", contexts=1, responses=4), random_laws(1, 4)
    groups, chances = every_group(*[start[0]] * size)
    module = on(game, WIND, start=start, sampler=Sampler(group_size=size), **STEP)
    rollouts = judged(module, groups, start[0])

    def solve(rollouts):
        place(module.policy, start)
        return minimised(
            module,
            lambda: (
                chances @ module.loss(replace(rollouts, policy_token_logps=module.policy.logps(rollouts.responses)))[0]
            ),
        )

    exact = wind_step(start, game.reference, game.preference, **STEP)
    torch.testing.assert_close(solve(rollouts), exact, atol=1e-6, rtol=0)

    place(module.policy, start)
    others = rollouts.win_rates_against_others
    logps = rollouts.anchor_logps, rollouts.reference_logps
    overshot = minimised(
        module, lambda: chances @ module.risk(module.policy.logps(rollouts.responses).sum(-1), *logps, others)
    )
    implied = (1 / ETA + BETA) * overshot.log() - start.log() / ETA - BETA * game.reference.log()
    rates = (game.preference @ start[..., None]).squeeze(-1)
    implied, rates = implied - implied[..., :1], rates - rates[..., :1]
    torch.testing.assert_close(implied, size / (size - 1) * rates, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("size", "short"), [(3, (0.09, 0.13)), (4, (0.12, 0.14))])
@pytest.mark.parametrize("risk", ["kl", "nce"])
def test_the_kl_and_nce_risks_of_groups_fall_short_where_preferences_are_hard(risk, size, short):
    start = torch.full((1, 4), 0.25, dtype=torch.float64)
    game = Game(start, hard_preference(torch.arange(4.0, dtype=torch.float64))[None])
    groups, chances = every_group(*[start[0]] * size)
    module = on(game, WIND, start=start, risk=risk, beta=0.1, eta=5.0, sampler=Sampler(group_size=size))
    rollouts = judged(module, groups, start[0])
    found = minimised(module, lambda: chances @ row_losses(module, rollouts)[0])
    exact = wind_step(start, game.reference, game.preference, beta=0.1, eta=5.0)
    made, wanted = (law.log() - law.log().mean() for law in (found, exact))
    assert short[0] < 1 - float((made * wanted).sum() / (wanted * wanted).sum()) < short[1]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_T12_the_mean_gradient_of_groups_is_the_enumerated_one_times_one_minus_one_over_the_group_size(size):
    game, start, elsewhere = random_game("skew", contexts=1, responses=4), random_laws(1, 4), random_laws(1, 4, seed=1)
    groups, chances = every_group(*[start[0]] * size)
    enumerating = on(game, WIND, start=start, **STEP)
    whole = collected(enumerating)
    drawing = on(game, WIND, sampler=Sampler(group_size=size), **STEP)
    place(enumerating.policy, elsewhere)
    place(drawing.policy, elsewhere)
    mean = gradient(drawing, judged(drawing, groups, start[0]), chances)
    assert mean.abs().max() > 1e-2
    torch.testing.assert_close(mean, (1 - 1 / size) * gradient(enumerating, whole))
