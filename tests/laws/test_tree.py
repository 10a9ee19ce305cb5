"""Responses of several tokens: a policy over sequences learns what a table over whole responses learns."""

from dataclasses import replace

import pytest
import torch

from lit_align.algorithms import DPO, INPO, SPPO, WIND, AcceleratedPO, IterativeBOND, NashMD
from lit_align.anchors import Previous
from lit_align.games import wind_step
from lit_align.games.enumeration import Enumeration
from lit_align.games.policies import TabularPolicy
from lit_align.games.tree import TreePolicy
from lit_align.lab import play
from lit_align.types import Rollouts, masked_sum
from tests.games.instances import generator
from tests.laws.instances import collected, distance, gradient, on, place, random_game, row_losses

RESPONSES = 40
BOND = {"n": 2, "anchor": Previous(every=5), "a1": 0.5, "a2": 0.2}
MODULES = {
    "WIND squared": (WIND, {"risk": "squared"}),
    "WIND kl": (WIND, {"risk": "kl"}),
    "WIND nce": (WIND, {"risk": "nce"}),
    "SPPO half": (SPPO, {"beta": 0.5, "pairing": "all"}),
    "SPPO partition": (SPPO, {"beta": 0.5, "offset": "partition", "pairing": "all"}),
    "INPO": (INPO, {"eta": 1.0, "tau": 0.3, "pairing": "all"}),
    "DPO": (DPO, {"beta": 0.5, "pairing": "all"}),
    "AcceleratedPO ipo": (AcceleratedPO, {"objective": "ipo", "pairing": "all"}),
    "IterativeBOND exact": (IterativeBOND, {"law": "exact", **BOND}),
    "IterativeBOND approximate": (IterativeBOND, {"law": "approximate", **BOND}),
    "NashMD": (NashMD, {"tau": 0.3}),
}


def a_game(kind="bradley_terry"):
    return random_game(kind, contexts=2, responses=RESPONSES)


def move(policy, seed):
    """Random conditionals at every node."""
    noise = torch.randn(policy.logits.shape, generator=generator(seed), dtype=torch.float64)
    with torch.no_grad():
        policy.logits.copy_(policy.logits + 0.5 * noise)


def the_same(tree, table):
    """Make the table's law the tree's."""
    place(table.policy, tree.policy.distribution().detach())


@pytest.mark.parametrize("name", MODULES)
def test_losses_are_those_of_the_table_with_the_same_law_and_gradients_follow_by_the_chain_rule(name):
    algorithm, options = MODULES[name]
    # Each with an anchor of its own: anchors hold weights.
    options = {key: Previous(every=5) if key == "anchor" else value for key, value in options.items()}
    game = a_game()
    tree = on(game, algorithm, policy=TreePolicy, **options)
    options |= {"anchor": Previous(every=5)} if "anchor" in options else {}
    table = on(game, algorithm, **options)
    move(tree.policy, seed=0)
    the_same(tree, table)
    for module in (tree, table):
        module.begin()
    move(tree.policy, seed=1)
    the_same(tree, table)
    for module in (tree, table):
        module.iteration.fill_(1)
    of_tree, of_table = collected(tree), collected(table)
    if algorithm is NashMD:  # a mixture token by token is another law than one of whole responses
        assert (of_tree.weights - of_table.weights).abs().max() > 1e-4
        of_table = replace(of_table, weights=of_tree.weights)
    torch.testing.assert_close(of_table.weights, of_tree.weights, atol=1e-14, rtol=1e-12)
    move(tree.policy, seed=2)
    the_same(tree, table)
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
    game, step = a_game(kind), {"beta": 0.3, "eta": 1.2}
    laws = [play(on(game, WIND, policy=policy, **step), iterations=2).laws for policy in (TreePolicy, TabularPolicy)]
    torch.testing.assert_close(laws[0], laws[1], atol=1e-5, rtol=0)
    expected = wind_step(game.reference, game.reference, game.preference, **step)
    torch.testing.assert_close(laws[0][1], expected, atol=1e-5, rtol=0)
    assert distance(expected, game.reference) > 1e-2


def test_means_over_tokens_in_the_place_of_sums_have_another_minimiser(monkeypatch):
    game, step = a_game(), {"beta": 0.3, "eta": 1.2}
    expected = wind_step(game.reference, game.reference, game.preference, **step)

    def means(rollouts, policy):
        mask = rollouts.responses.mask
        return masked_sum(getattr(rollouts, f"{policy}_token_logps"), mask) / mask.sum(-1)

    monkeypatch.setattr(Rollouts, "_sums", means)
    law = play(on(game, WIND, policy=TreePolicy, **step), iterations=1).laws[1]
    assert distance(law, expected) > 5e-2


def test_nash_md_of_one_token_mixes_whole_responses():
    game = random_game("skew", contexts=2, responses=4)
    options = {"tau": 0.3, "sampler": Enumeration(sources=("policy", "mixture"), mixture=0.4)}
    tree = on(game, NashMD, policy=lambda game: TreePolicy(game, symbols=3, length=1), **options)
    table = on(game, NashMD, **options)
    torch.testing.assert_close(collected(tree).weights, collected(table).weights)
