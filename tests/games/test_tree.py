"""Responses of several tokens, all counted: the tree itself, ends, sums against means, and the two kinds of mixture."""

import itertools

import pytest
import torch

from lit_align import Sampler
from lit_align.games import geometric_mixture
from lit_align.games.tree import TreePolicy, sequences
from tests.games.playing import SEQUENCES, draws, everything, game, moved, tree

END = 3


def mixed(policy, weight):
    """The token-wise mixture's law over whole responses, and the sequence-wise one."""
    by_token = everything(policy, "mixture", weight).sample_logps.sum(-1).exp()
    laws = policy.distribution().detach(), policy.game.reference
    return by_token, geometric_mixture((1 - weight, laws[0]), (weight, laws[1]))


@pytest.mark.parametrize(("symbols", "length", "count"), [(3, 3, 40), (2, 2, 7), (1, 4, 5), (3, 1, 4)])
def test_the_tree_has_every_sequence_once_ended_or_cut_at_the_length(symbols, length, count):
    tokens, mask, _ = sequences(symbols, length)
    found = [tuple(row[kept].tolist()) for row, kept in zip(tokens, mask, strict=True)]
    ended = [(*word, symbols) for size in range(length) for word in itertools.product(range(symbols), repeat=size)]
    cut = list(itertools.product(range(symbols), repeat=length))
    assert sorted(found) == sorted(ended + cut)
    assert len(found) == len(set(found)) == count
    assert (mask.sum(-1).diff() >= 0).all()


def test_children_lead_along_every_sequence_to_a_leaf():
    tokens, mask, children = sequences(3, 3)
    for row, kept in zip(tokens, mask, strict=True):
        *inner, last = row[kept].tolist()
        node = 0
        for token in inner:
            node = int(children[node, token])
            assert node > 0
        assert int(children[node, last]) == -1
    reached = children[children >= 0].tolist()
    assert sorted(reached) == list(range(1, len(children)))  # a tree: every node but the root has one parent


def test_the_log_probs_of_tokens_are_the_ratios_of_the_mass_below_them():
    policy = tree()
    whole = everything(policy, "reference")
    words = [ids[kept].tolist() for ids, kept in zip(whole.ids[0], whole.mask[0], strict=True)]

    def below(context, prefix):
        starts = torch.tensor([word[: len(prefix)] == prefix for word in words])
        return policy.game.reference[context, starts].sum()

    for context, row in itertools.product(range(2), (0, 5, 20, 39)):
        for position in range(len(words[row])):
            expected = below(context, words[row][: position + 1]) / below(context, words[row][:position])
            torch.testing.assert_close(whole.sample_logps[context, row, position].exp(), expected)


def test_responses_are_cut_exactly_where_they_have_no_end():
    policy = tree()
    for responses in (everything(policy), draws(policy, count=200)):
        last = responses.ids.gather(-1, (responses.lengths - 1)[..., None]).squeeze(-1)
        assert torch.equal(responses.truncated, last != END)
        assert (responses.lengths[responses.truncated] == 3).all()
        assert ((responses.ids == END) & responses.mask).sum(-1).eq(~responses.truncated).all()
    assert policy.indices(draws(policy, count=400)).unique().numel() > 30


def test_a_longer_limit_than_the_tree_changes_nothing():
    policy = tree()
    prompts = policy.encode(policy.game.records)
    short, long = (
        Sampler(group_size=9, max_new_tokens=limit).respond(policy, prompts, seed=0, iteration=0) for limit in (3, 64)
    )
    assert torch.equal(short.ids, long.ids)
    assert long.ids.shape[-1] == 3


def test_a_shorter_limit_than_the_tree_is_refused():
    policy = tree()  # a response cut at an inner node is none of the game's
    prompts = policy.encode(policy.game.records)
    with pytest.raises(ValueError, match="max_new_tokens"):
        Sampler(group_size=9, max_new_tokens=2).respond(policy, prompts, seed=0, iteration=0)


def test_sums_over_tokens_make_a_law_and_means_do_not():
    policy = tree()
    whole = everything(policy)
    token_logps = policy.logps(whole).detach()
    sums = token_logps.sum(-1)
    means = sums / whole.lengths
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(sums.exp().sum(-1), ones)
    assert ((means.exp().sum(-1) - ones).abs() > 1).all()
    order = [row.argsort().tolist() for row in (sums[0], means[0])]
    assert order[0] != order[1]


@pytest.mark.parametrize("weight", [0.25, 0.5])
def test_mixing_tokens_is_mixing_responses_where_they_have_one_token_and_not_in_a_tree(weight):
    by_token, by_response = mixed(moved(TreePolicy(game(2, 4), symbols=3, length=1)), weight)
    torch.testing.assert_close(by_token, by_response)
    by_token, by_response = mixed(tree(), weight)
    torch.testing.assert_close(by_token.sum(-1), torch.ones(2, dtype=torch.float64))
    assert ((by_token - by_response).abs().sum(-1) / 2 > 2e-3).all()


def test_mixing_tokens_is_mixing_the_law_at_every_node():
    policy, weight = tree(), 0.3
    expected = policy.table("policy").detach().exp() ** (1 - weight) * policy.table("reference").exp() ** weight
    expected = expected / expected.sum(-1, keepdim=True)
    whole = everything(policy, "mixture", weight)
    root = {tuple(y[:1]): lp for y, lp in zip(whole.ids[1].tolist(), whole.sample_logps[1, :, 0].exp(), strict=True)}
    assert [float(root[(token,)]) for token in range(4)] == pytest.approx(expected[1, 0].tolist())
    node = int(sequences(3, 3)[2][0, 2])
    second = {
        y[1]: lp for y, lp in zip(whole.ids[1].tolist(), whole.sample_logps[1, :, 1].exp(), strict=True) if y[0] == 2
    }
    assert [float(second[token]) for token in range(4)] == pytest.approx(expected[1, node].tolist())


def test_a_tree_has_as_many_responses_as_its_game():
    policy = tree()
    assert policy.game.responses == SEQUENCES
    assert policy.logits.shape == (2, 13, 4)
