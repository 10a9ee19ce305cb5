"""Comparisons that are missing are no ties: whatever their pattern, the mean over all draws is the exact step."""

import itertools
from dataclasses import replace

import pytest
import torch

from lit_align import EXO, JBOND, SPPO, WIND, IterativeBOND, NashMD, Sampler
from lit_align.games import win_rate, wind_step
from tests.games.instances import random_laws
from tests.laws.instances import (
    distance,
    divergence,
    every_group,
    gradient,
    gradient_of,
    judged,
    minimised,
    on,
    place,
    random_game,
    row_losses,
)

STEP = {"beta": 0.3, "eta": 1.2}
SIZE = 4
PAIRS = list(itertools.combinations(range(SIZE), 2))


def pattern_of(*pairs):
    """Which comparisons of a group of four are there: the given ones, and those of each response with itself."""
    compared = torch.eye(SIZE, dtype=torch.bool)
    for i, j in pairs:
        compared[i, j] = compared[j, i] = True
    return compared


# One of each shape: all other patterns are these with the slots in another order.
PATTERNS = {
    "star": pattern_of((0, 1), (0, 2), (0, 3)),
    "all": pattern_of(*PAIRS),
    "all but one": pattern_of(*PAIRS[1:]),
    "circle": pattern_of((0, 1), (1, 2), (2, 3), (3, 0)),
    "triangle and a tail": pattern_of((0, 1), (1, 2), (0, 2), (2, 3)),
    "chain": pattern_of((0, 1), (1, 2), (2, 3)),
    "triangle": pattern_of((0, 1), (1, 2), (0, 2)),
    "two pairs": pattern_of((0, 1), (2, 3)),
    "chain of three": pattern_of((3, 1), (1, 2)),
    "one pair": pattern_of((1, 3)),
}


def with_missing(rollouts, *patterns):
    """The same groups once for each pattern, and where nobody looks the opposite of the truth."""
    compared = torch.stack(patterns).repeat_interleave(len(rollouts), 0)
    every = rollouts.select(list(range(len(rollouts))) * len(patterns))
    lies = torch.where(compared, every.wins, 1 - every.wins)
    rewards = None
    if every.rewards is not None:
        own = torch.eye(every.wins.shape[-1], dtype=torch.bool)
        rewards = torch.where((compared & ~own).any(-1), every.rewards, torch.nan)
    return replace(every, compared=compared, wins=lies, rewards=rewards)


def share_of(found, start, exact):
    """How much of the exact step was made, by least squares on log-ratios up to a constant."""
    steps = [(law / start).log() for law in (found, exact)]
    made, wanted = (step - step.mean(-1, keepdim=True) for step in steps)
    return float((made * wanted).sum() / (wanted * wanted).sum())


@pytest.fixture(scope="module")
def wind():
    """The module, every group of four draws of its anchor, how likely each is, its anchor, and the exact step."""
    game, start = random_game("skew", contexts=1, responses=3), random_laws(1, 3)
    groups, chances = every_group(*[start[0]] * SIZE)
    module = on(game, WIND, start=start, sampler=Sampler(group_size=SIZE), **STEP)
    exact = wind_step(start, game.reference, game.preference, **STEP)
    return module, judged(module, groups, start[0]), chances, start, exact


def step_of(wind, *patterns, chances_of=(1.0,)):
    module, rollouts, chances, start, _ = wind
    place(module.policy, start)
    rows = with_missing(rollouts, *patterns)
    likely = (torch.tensor(chances_of, dtype=torch.float64)[:, None] * chances).flatten()
    return minimised(module, lambda: likely @ row_losses(module, rows)[0])


@pytest.mark.parametrize("name", PATTERNS)
def test_winds_step_is_exact_for_every_pattern_of_missing_comparisons(wind, name):
    *_, start, exact = wind
    found = step_of(wind, PATTERNS[name])
    assert share_of(found, start, exact) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(found, exact, atol=1e-6, rtol=0)


@pytest.mark.parametrize("missing", [0.1, 0.3])
def test_winds_step_is_exact_where_rewards_go_missing_at_random(wind, missing):
    *_, start, exact = wind
    patterns, chances = [], []
    for there in itertools.product([True, False], repeat=SIZE):
        slots = [slot for slot in range(SIZE) if there[slot]]
        patterns.append(pattern_of(*itertools.combinations(slots, 2)))
        chances.append((1 - missing) ** len(slots) * missing ** (SIZE - len(slots)))
    found = step_of(wind, *patterns, chances_of=chances)
    assert share_of(found, start, exact) == pytest.approx(1, abs=1e-6)
    assert distance(found, exact) < 1e-6


def test_an_answer_that_is_missing_leaves_no_trace(wind):
    """What a group says of the others does not depend on what stands where nobody has looked."""
    module, rollouts, chances, *_ = wind
    place(module.policy, random_laws(1, 3, seed=1))
    rows = with_missing(rollouts, PATTERNS["chain of three"])
    other = replace(rows, wins=torch.where(rows.compared, rows.wins, torch.rand_like(rows.wins)))
    torch.testing.assert_close(gradient(module, rows, chances), gradient(module, other, chances), atol=0, rtol=0)


@pytest.mark.parametrize("name", PATTERNS)
def test_nash_mds_gradient_is_exact_for_every_pattern_of_missing_comparisons(name):
    game, pi, tau = random_game("skew", contexts=1, responses=3), random_laws(1, 3), 0.3
    sampler = Sampler(sources=("policy", "mixture", "policy", "mixture"))
    module = on(game, NashMD, start=pi, tau=tau, sampler=sampler)
    opponent = (0.5 * pi.log() + 0.5 * game.reference.log()).softmax(-1)
    groups, chances = every_group(pi[0], opponent[0], pi[0], opponent[0])
    expected = gradient_of(
        lambda law: (tau * divergence(law, game.reference) - win_rate(law, opponent, game.preference)).sum(), pi
    )
    assert expected.abs().max() > 1e-2
    rows = with_missing(judged(module, groups, pi[0]), PATTERNS[name])
    counted = float(row_losses(module, rows)[1].max())
    met = bool(PATTERNS[name][[0, 2]][:, [1, 3]].any())
    assert counted == met
    if met:
        torch.testing.assert_close(gradient(module, rows, chances), expected)


@pytest.mark.parametrize("name", PATTERNS)
def test_sppos_minimiser_over_all_responses_is_that_of_its_population_for_every_pattern(name):
    game, start = random_game("skew", contexts=1, responses=3), random_laws(1, 3)
    module = on(game, SPPO, start=start, beta=0.5, pairing="all", sampler=Sampler(group_size=SIZE))
    groups, chances = every_group(*[start[0]] * SIZE)
    rows = with_missing(judged(module, groups, start[0]), PATTERNS[name])
    place(module.policy, random_laws(1, 3, seed=1))
    losses, weights = row_losses(module, rows)
    found = torch.autograd.grad(chances @ losses / (chances @ weights), module.policy.logits)[0]
    rates = (game.preference @ start[..., None]).squeeze(-1)
    expected = gradient_of(
        lambda law: (start * ((law / start).log() - (rates - 0.5) / 0.5) ** 2).sum(), random_laws(1, 3, seed=1)
    )
    torch.testing.assert_close(found, expected)


REWARDED = [(0, 2, 3), (0, 1, 2, 3), (1, 2, 3), (0, 1), (2, 3)]


def of_rewarded(*slots):
    return pattern_of(*itertools.combinations(slots, 2))


@pytest.mark.parametrize("slots", REWARDED)
def test_exo_ends_at_the_tilted_reference_whichever_rewards_are_missing(slots):
    game, start = random_game("bradley_terry", contexts=1, responses=3), random_laws(1, 3)
    module = on(game, EXO, start=start, beta_policy=0.7, beta_reward=1.3, sampler=Sampler(group_size=SIZE))
    groups, chances = every_group(*[start[0]] * SIZE)
    rows = with_missing(judged(module, groups, start[0]), of_rewarded(*slots))
    assert (row_losses(module, rows)[1] == 1).all()
    found = minimised(module, lambda: chances @ row_losses(module, rows)[0])
    expected = (game.reference.log() + game.rewards / (0.7 * 1.3)).softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_single_reward_says_nothing_of_a_group():
    game, start = random_game("bradley_terry", contexts=1, responses=3), random_laws(1, 3)
    for algorithm in (EXO, IterativeBOND):
        sources = ("policy", "anchor", "policy", "anchor") if algorithm is IterativeBOND else ()
        module = on(game, algorithm, start=start, sampler=Sampler(group_size=SIZE, sources=sources))
        rows = with_missing(judged(module, torch.tensor([[0, 1, 2, 1]]), start[0]), of_rewarded(2))
        losses, weights = row_losses(module, rows)
        assert weights.tolist() == [0]
        assert losses.isfinite().all()


@pytest.mark.parametrize("law", ["exact", "approximate"])
@pytest.mark.parametrize("lost", [(0,), (3,), (0, 4)])
def test_bond_goes_on_as_if_the_responses_without_a_reward_had_not_been_drawn(lost, law):
    """Two of the policy's and three of the anchor's: any one of each can go."""
    sources = ("policy", "policy", "anchor", "anchor", "anchor")
    game, pi, anchor = (
        random_game("bradley_terry", contexts=1, responses=3),
        random_laws(1, 3),
        random_laws(1, 3, seed=1),
    )
    left = [slot for slot in range(5) if slot not in lost]

    def mean(slots):
        kept = tuple(sources[slot] for slot in slots)
        module = on(game, IterativeBOND, start=pi, beta=0.4, law=law, sampler=Sampler(sources=kept))
        groups, chances = every_group(*[(pi if source == "policy" else anchor)[0] for source in kept])
        return module, judged(module, groups, anchor[0]), chances

    module, rows, chances = mean(range(5))
    compared = torch.eye(5, dtype=torch.bool).expand(len(rows), -1, -1).clone()
    compared[:, [[i] for i in left], left] = True
    rewards = rows.rewards.clone()
    rewards[:, list(lost)] = torch.nan
    found = gradient(module, replace(rows, compared=compared, rewards=rewards), chances)
    expected = gradient(*mean(left))
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("beta", "pairs", "counts"),
    [
        (1.0, ((0, 1), (0, 2)), True),
        (0.5, ((0, 1), (0, 2)), False),
        (0.5, ((1, 2),), False),
        (0.5, ((0, 1), (0, 2), (1, 2)), True),
        (1.0, ((0, 1), (1, 2)), False),
        (0.0, ((1, 2),), True),
        (0.0, ((0, 1), (0, 2)), False),
    ],
)
def test_jbond_counts_a_prompt_that_has_the_comparisons_of_its_terms_and_is_unbiased(beta, pairs, counts):
    game, pi, anchor = random_game("skew", contexts=1, responses=3), random_laws(1, 3), random_laws(1, 3, seed=1)
    module = on(game, JBOND, start=pi, beta=beta, sampler=Sampler(sources=("policy", "anchor", "anchor")))
    groups, chances = every_group(pi[0], anchor[0], anchor[0])
    rows = judged(module, groups, anchor[0])
    missing = with_missing(rows, pattern_of(*pairs)[:3, :3])
    assert (row_losses(module, missing)[1] == counts).all()
    if counts:
        torch.testing.assert_close(gradient(module, missing, chances), gradient(module, rows, chances))
