"""ONPO as a module: two fits on one iteration's comparisons are the two steps of optimistic mirror descent."""

import pytest
import torch

from lit_align import ONPO, SPPO, Optimistic, Sampler
from lit_align.games import kl, onpo_step
from lit_align.games.game import RockPaperScissors
from lit_align.games.lab import play
from tests.games.instances import random_laws
from tests.laws.instances import on, random_game

ETA = 0.7


def exact(game, iterations, eta=ETA):
    base, prediction, laws = game.reference, torch.zeros_like(game.reference), []
    for _ in range(iterations + 1):
        step = onpo_step(base, prediction, game.preference, eta=eta)
        laws.append(step.policy)
        base, prediction = step.base, step.win_rates
    return torch.stack(laws)


@pytest.mark.parametrize("kind", ["skew", "bradley_terry"])
def test_iterations_are_those_of_optimistic_mirror_descent(kind):
    game = random_game(kind)
    laws = play(on(game, ONPO, eta=ETA, pairing="all"), iterations=5).laws
    torch.testing.assert_close(laws, exact(game, 5), atol=1e-6, rtol=0)


def test_the_policy_stands_one_step_ahead_of_the_next_base():
    game, start = random_game("skew"), random_laws(3, 5)
    module = on(game, ONPO, start=start, eta=ETA, pairing="all")
    laws = play(module, iterations=1).laws
    module.anchor.begin(module.policy, int(module.iteration))
    with module.anchor.applied(module.policy) as source, torch.no_grad():
        base = module.policy.distribution(source)
    win_rates = (game.preference @ start[..., None]).squeeze(-1)
    tilted = (start.log() + ETA * win_rates).softmax(-1)
    torch.testing.assert_close(base, tilted, atol=1e-6, rtol=0)
    torch.testing.assert_close(laws[1], (base.log() + ETA * win_rates).softmax(-1), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_on_rock_paper_scissors_it_closes_in_where_multiplicative_weights_go_out():
    game = RockPaperScissors()
    nash = torch.full((1, 3), 1 / 3, dtype=torch.float64)

    def away(algorithm, **options):
        laws = play(on(game, algorithm, pairing="all", **options), iterations=40).laws
        return kl(nash, laws[0]), kl(nash, laws[-1])

    first, last = away(ONPO, eta=1.0)
    assert last < 0.7 * first
    first, last = away(SPPO, beta=1.0, offset="partition")
    assert last > first


def test_draws_go_the_same_way():
    game = random_game("skew", copies=8)
    module = ONPO(
        on(game, ONPO, eta=ETA, pairing="all").policy,
        on(game, ONPO, eta=ETA, pairing="all").judge,
        eta=ETA,
        sampler=Sampler(group_size=256, max_new_tokens=1),
        optimizer=lambda p: torch.optim.LBFGS(p, max_iter=100, line_search_fn="strong_wolfe"),
    )
    drawn = play(module, iterations=2).laws[-1]
    expected = exact(game, 2)[-1]
    assert kl(expected, drawn).mean() < 0.1 * kl(expected, game.reference).mean()


def test_the_anchor_begins_once_an_iteration_and_goes_on_from_a_checkpoint():
    game = random_game("skew")
    module = on(game, ONPO, eta=ETA, pairing="all")
    play(module, iterations=2)
    anchor, again = module.anchor, Optimistic()
    again.load_state_dict(anchor.state_dict())
    for rule in (anchor, again):
        rule.begin(module.policy, 2)
        rule.begin(module.policy, 2)
    for one, other in zip(*(rule.state_dict()["base"].values() for rule in (anchor, again)), strict=True):
        assert torch.equal(one, other)
    with anchor.applied(module.policy), torch.no_grad():
        base = module.policy.distribution()
    with again.applied(module.policy), torch.no_grad():
        assert torch.equal(module.policy.distribution(), base)


def test_a_step_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"model\.eta must be > 0, got 0"):
        on(random_game("skew"), ONPO, eta=0.0)
