"""Iterative DPO and its acceleration as modules: how far T iterations tilt, what is output, what momentum costs."""

from functools import partial

import pytest
import torch

from lit_align import DPO, SPPO, AcceleratedPO
from lit_align.games import (
    apo_coefficients,
    apo_tilt,
    bradley_terry_preference,
    dpo_step,
    extrapolate,
    kl,
    rock_paper_scissors,
    sppo_step,
)
from lit_align.games.game import Game
from lit_align.games.judge import GameJudge
from lit_align.games.lab import play
from lit_align.judges.base import Verdict
from tests.games.instances import generator, random_laws
from tests.laws.instances import LBFGS, distance, on, random_game

ALPHAS = [0.0, 0.3, 0.6]
SOLVED = {"atol": 1e-6, "rtol": 0}


def tilted(reference, logits):
    return (reference.log() + logits).softmax(-1)


def test_A1_an_iteration_of_dpo_tilts_the_law_it_starts_from_by_the_reward():
    game = random_game("bradley_terry")
    for beta in (0.5, 2.0):
        start = random_laws(3, 5)
        laws = play(on(game, DPO, start=start, beta=beta, pairing="all"), iterations=1).laws
        torch.testing.assert_close(laws[1], dpo_step(start, game.rewards, beta=beta), **SOLVED)
        torch.testing.assert_close(laws[1], tilted(start, game.rewards / beta), **SOLVED)


def test_A3_iterations_of_dpo_add_up():
    game = random_game("bradley_terry")
    laws = play(on(game, DPO, beta=2.0, pairing="all"), iterations=5).laws
    for done, law in enumerate(laws):
        torch.testing.assert_close(law, tilted(game.reference, done * game.rewards / 2.0), **SOLVED)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_A2_after_T_iterations_the_reference_is_tilted_by_W_T(alpha):
    game, beta = random_game("bradley_terry"), 2.0
    laws = play(on(game, AcceleratedPO, alpha=alpha, beta=beta, pairing="all"), iterations=5).laws
    for done, law in enumerate(laws):
        weight = apo_tilt(done, alpha=alpha)
        torch.testing.assert_close(law, tilted(game.reference, weight * game.rewards / beta), **SOLVED)
    printed = {0.0: 5.0, 0.3: 6.532, 0.6: 9.042}[alpha]
    assert apo_tilt(5, alpha=alpha) == pytest.approx(printed, abs=5e-4)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_A6_each_iteration_has_its_own_beta_and_the_last_one_goes_on(alpha):
    game, betas = random_game("bradley_terry"), [1.0, 2.0, 4.0]
    laws = play(on(game, AcceleratedPO, alpha=alpha, beta=betas, pairing="all"), iterations=4).laws
    weight = (apo_coefficients(4, alpha=alpha) / torch.tensor([*betas, 4.0], dtype=torch.float64)).sum()
    torch.testing.assert_close(laws[-1], tilted(game.reference, weight * game.rewards), **SOLVED)


def test_A11_the_output_is_the_iterate_and_what_draws_is_the_extrapolated_one():
    game, alpha, beta = random_game("bradley_terry"), 0.6, 2.0
    module = on(game, AcceleratedPO, alpha=alpha, beta=beta, pairing="all")
    drawn, loss = [], module.loss

    def recording(rollouts):
        drawn.append((int(module.iteration), rollouts))
        return loss(rollouts)

    module.loss = recording
    played = play(module, iterations=4)
    torch.testing.assert_close(module.policy.distribution().detach(), played.laws[-1])
    moved = extrapolate(played.laws[-1], played.laws[-2], alpha=alpha)
    assert distance(moved, played.laws[-1]) > 1e-2
    for iteration, rollouts in drawn:
        weight = apo_tilt(iteration + 1, alpha=alpha) - 1
        law = tilted(game.reference, weight * game.rewards / beta)[rollouts.responses.prompts.ids[:, 0]]
        torch.testing.assert_close(rollouts.weights, law, **SOLVED)
        torch.testing.assert_close(rollouts.anchor_logps, law.log(), atol=1e-5, rtol=0)
    assert {iteration for iteration, _ in drawn} == {0, 1, 2, 3}


def test_an_iteration_with_ipo_is_the_multiplicative_weights_step():
    game, start = random_game("skew"), random_laws(3, 5)
    module = on(game, AcceleratedPO, start=start, objective="ipo", alpha=0.0, beta=0.7, pairing="all")
    expected = sppo_step(start, game.preference, eta=1 / 0.7)
    torch.testing.assert_close(play(module, iterations=1).laws[1], expected, **SOLVED)


def test_A7_momentum_reaches_a_dominating_arm_sooner_and_within_the_bound():
    margin, eta, iterations, responses = 0.1, 1.5, 8, 4
    wins = random_game("skew", contexts=1, responses=responses).preference[0]
    # The first arm wins against z by what any other does, and a margin more.
    wins[0, 1:] = wins[1:, 1:].amax(0).clamp(min=0.5) + margin
    wins[1:, 0] = 1 - wins[0, 1:]
    wins = 0.5 + 0.5 * (wins - 0.5)
    gap = float((wins[0] - wins[1:]).min())
    assert gap > 0.02
    game = Game(torch.full((1, responses), 1 / responses, dtype=torch.float64), wins[None])
    missing = {}
    for alpha in ALPHAS:
        options = {"objective": "sppo", "offset": "partition", "pairing": "all", "alpha": alpha, "beta": 1 / eta}
        missing[alpha] = 1 - play(on(game, AcceleratedPO, **options), iterations=iterations).laws[:, 0, 0]
        for done, rest in enumerate(missing[alpha]):
            odds = responses - 1
            assert rest <= odds * torch.exp(torch.tensor(-apo_tilt(done, alpha=alpha) * eta * gap)) + 1e-6
    assert (missing[0.0][2:] > missing[0.3][2:]).all()
    assert (missing[0.3][2:] > missing[0.6][2:]).all()


def test_A8_where_preferences_are_a_cycle_the_iterates_spiral_out_and_momentum_speeds_that_up():
    reference = torch.tensor([[0.36, 0.33, 0.31]], dtype=torch.float64)
    game, eta, iterations = Game(reference, rock_paper_scissors()[None]), 0.6, 16
    uniform = torch.full_like(reference, 1 / 3)
    ends = {}
    for alpha in ALPHAS:
        options = {"objective": "sppo", "offset": "partition", "pairing": "all", "alpha": alpha, "beta": 1 / eta}
        laws = play(on(game, AcceleratedPO, **options), iterations=iterations).laws
        before, point = reference, reference
        for done in range(1, iterations + 1):
            iterate = sppo_step(point, game.preference, eta=eta)
            if done % 8 == 0:
                torch.testing.assert_close(laws[done], iterate, atol=1e-5, rtol=0)
            before, point = iterate, extrapolate(iterate, before, alpha=alpha)
        ends[alpha] = float(kl(uniform, laws[-1]))
    assert float(kl(uniform, reference)) < ends[0.0] < ends[0.3] < ends[0.6]
    assert ends[0.6] > 5 * ends[0.0]


class NoisyJudge(GameJudge):
    """Sees every reward with Gaussian noise, drawn anew each time it is asked."""

    def __init__(self, game, spread):
        super().__init__(game)
        self.spread, self.noise_seen, self.generator = spread, [], generator(0)

    def verdict(self, prompts, texts, report=None):
        index = torch.tensor([[int(text) for text in group] for group in texts])
        context = prompts.ids[:, 0]
        noise = self.spread * torch.randn(self.game.rewards.shape, generator=self.generator, dtype=torch.float64)
        self.noise_seen.append(noise)
        wins = bradley_terry_preference((self.game.rewards + noise)[context[:, None], index])
        return Verdict(wins, torch.ones_like(wins, dtype=torch.bool), None)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_A9_noise_in_the_rewards_adds_up_with_the_coefficients_of_the_iterations(alpha):
    beta, spread, iterations = 4.0, 0.4, 4
    game = random_game("bradley_terry", contexts=1, responses=3, copies=20)
    judge = NoisyJudge(game, spread)
    options = {"alpha": alpha, "beta": beta, "pairing": "all", "optimizer": partial(LBFGS, max_iter=300)}
    laws = play(on(game, AcceleratedPO, judge=judge, **options), iterations=iterations).laws
    coefficients = apo_coefficients(iterations, alpha=alpha)
    exact = game.reference.log() + apo_tilt(iterations, alpha=alpha) * game.rewards / beta
    error = laws[-1].log() - exact
    error = error - error.mean(-1, keepdim=True)
    noise = torch.einsum("t,txy->xy", coefficients, torch.stack(judge.noise_seen)) / beta
    torch.testing.assert_close(error, noise - noise.mean(-1, keepdim=True), atol=1e-4, rtol=0)
    # Centring over three responses keeps two thirds of the variance.
    measured = float((error.square().mean() * 3 / 2).sqrt())
    assert measured == pytest.approx(spread / beta * float(coefficients.square().sum().sqrt()), rel=0.2)


def test_without_momentum_accelerated_sppo_is_sppo():
    game = random_game("skew")
    options = {"offset": "partition", "pairing": "all", "beta": 1.0}
    plain = play(on(game, SPPO, **options), iterations=3).laws
    accelerated = play(on(game, AcceleratedPO, objective="sppo", alpha=0.0, **options), iterations=3).laws
    torch.testing.assert_close(accelerated, plain, **SOLVED)
