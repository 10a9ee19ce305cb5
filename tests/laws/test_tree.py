"""Responses of several tokens: a policy over sequences learns what a table over whole responses learns."""

from dataclasses import replace

import pytest
import torch

from lit_align import DPO, INPO, SPPO, WIND, AcceleratedPO, Extrapolated, IterativeBOND, NashMD, Previous
from lit_align.games import extrapolate, wind_step
from lit_align.games.enumeration import Enumeration
from lit_align.games.lab import play
from lit_align.games.policies import TabularPolicy
from lit_align.games.tree import TreePolicy
from tests.games.instances import generator
from tests.laws.instances import collected, distance, gradient, on, place, random_game, row_losses

RESPONSES = 40
STEP = {"beta": 0.3, "eta": 1.2}


def bond(law):
    return IterativeBOND, {"n": 2, "law": law, "anchor": Previous(every=5), "a1": 0.5, "a2": 0.2}


# Made anew for each policy: an anchor holds weights.
MODULES = {
    "WIND squared": lambda: (WIND, {"risk": "squared"}),
    "WIND kl": lambda: (WIND, {"risk": "kl"}),
    "WIND nce": lambda: (WIND, {"risk": "nce"}),
    "SPPO half": lambda: (SPPO, {"beta": 0.5, "pairing": "all"}),
    "SPPO partition": lambda: (SPPO, {"beta": 0.5, "offset": "partition", "pairing": "all"}),
    "INPO": lambda: (INPO, {"eta": 1.0, "tau": 0.3, "pairing": "all"}),
    "DPO": lambda: (DPO, {"beta": 0.5, "pairing": "all"}),
    "AcceleratedPO ipo": lambda: (AcceleratedPO, {"objective": "ipo", "alpha": 0.0, "pairing": "all"}),
    "IterativeBOND exact": lambda: bond("exact"),
    "IterativeBOND approximate": lambda: bond("approximate"),
    "NashMD": lambda: (NashMD, {"tau": 0.3}),
}


def a_game(kind="bradley_terry"):
    return random_game(kind, contexts=2, responses=RESPONSES)


def side_by_side(name):
    """The module on a tree and on a table, and a way to give both the same random law."""
    game = a_game()
    (algorithm, options), (_, same) = MODULES[name](), MODULES[name]()
    tree, table = on(game, algorithm, policy=TreePolicy, **options), on(game, algorithm, **same)

    def move(seed):
        noise = torch.randn(tree.policy.logits.shape, generator=generator(seed), dtype=torch.float64)
        with torch.no_grad():
            tree.policy.logits.add_(0.5 * noise)
        place(table.policy, tree.policy.distribution().detach())

    return tree, table, move


@pytest.mark.parametrize("name", MODULES)
def test_losses_are_those_of_the_table_with_the_same_law_and_gradients_follow_by_the_chain_rule(name):
    tree, table, move = side_by_side(name)
    move(0)
    for module in (tree, table):
        module.begin()
        module.iteration.fill_(1)
    move(1)
    of_tree, of_table = collected(tree), collected(table)
    if name == "NashMD":  # a mixture token by token is another law than one of whole responses
        assert (of_tree.weights - of_table.weights).abs().max() > 1e-4
        of_table = replace(of_table, weights=of_tree.weights)
    torch.testing.assert_close(of_table.weights, of_tree.weights, atol=1e-14, rtol=1e-12)
    move(2)
    losses = row_losses(tree, of_tree)[0]
    assert losses.abs().min() > 1e-3
    torch.testing.assert_close(losses, row_losses(table, of_table)[0], atol=1e-12, rtol=1e-12)
    # The table's gradient is centred under its law, so it serves as the derivative in the log-probs of responses.
    (expected,) = torch.autograd.grad(
        tree.policy.distribution().log(), tree.policy.logits, grad_outputs=gradient(table, of_table)
    )
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(gradient(tree, of_tree), expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("kind", ["skew", "bradley_terry"])
def test_an_exact_iteration_of_wind_reaches_the_law_that_it_reaches_in_a_table(kind):
    game = a_game(kind)
    laws = [play(on(game, WIND, policy=policy, **STEP), iterations=2).laws for policy in (TreePolicy, TabularPolicy)]
    torch.testing.assert_close(laws[0], laws[1], atol=1e-5, rtol=0)
    expected = wind_step(game.reference, game.reference, game.preference, **STEP)
    torch.testing.assert_close(laws[0][1], expected, atol=1e-5, rtol=0)
    assert distance(expected, game.reference) > 1e-2


class Means(WIND):
    """Means of log-probs over the tokens of a response in the place of their sums."""

    def loss(self, rollouts):
        share = 1 / rollouts.responses.lengths[..., None]
        names = [f"{name}_token_logps" for name in ("policy", "anchor", "reference", "current")]
        known = {name: value for name in names if (value := getattr(rollouts, name)) is not None}
        return super().loss(replace(rollouts, **{name: value * share for name, value in known.items()}))


def test_means_over_tokens_in_the_place_of_sums_have_another_minimiser():
    game = a_game()
    expected = wind_step(game.reference, game.reference, game.preference, **STEP)
    law = play(on(game, Means, policy=TreePolicy, **STEP), iterations=1).laws[1]
    assert distance(law, expected) > 5e-2


def test_nash_md_of_one_token_mixes_whole_responses():
    game = random_game("skew", contexts=2, responses=4)
    options = {"tau": 0.3, "sampler": Enumeration(sources=("policy", "mixture"), mixture=0.4)}
    tree = on(game, NashMD, policy=lambda game: TreePolicy(game, symbols=3, length=1), **options)
    table = on(game, NashMD, **options)
    torch.testing.assert_close(collected(tree).weights, collected(table).weights)


def test_momentum_node_by_node_is_not_the_momentum_of_whole_responses_but_for_the_square_of_the_step():
    gaps = []
    for size in (0.2, 0.1, 0.05):
        policy, anchor = TreePolicy(a_game()), Extrapolated(alpha=0.6)
        anchor.begin(policy, 0)
        before = policy.distribution().detach()
        with torch.no_grad():
            policy.logits.add_(size * torch.randn(policy.logits.shape, generator=generator(0), dtype=torch.float64))
        after = policy.distribution().detach()
        anchor.begin(policy, 1)
        gaps.append(distance(policy.distribution().detach(), extrapolate(after, before, alpha=0.6)))
    assert gaps[0] > 1e-5
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.15)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.15)
