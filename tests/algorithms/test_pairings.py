"""Pairings: who meets whom, with what preference and weight; what is missing weighs nothing."""

import itertools

import pytest
import torch

from lit_align.algorithms.pairings import PAIRINGS, all_pairs, best_worst, gather, random_pairs
from lit_align.losses.dpo import dpo
from lit_align.losses.inpo import inpo
from lit_align.losses.ipo import ipo
from lit_align.types import Prompts, Responses, Rollouts

FAIR = ["random", "all"]


def rollouts(wins, compared=None, weights=None):
    """Groups of responses of one token, judged as given."""
    wins = torch.as_tensor(wins)
    batch, size = wins.shape[:2]
    prompts = Prompts(
        torch.ones(batch, 1).long(), torch.ones(batch, 1).bool(), torch.arange(batch), [{"prompt": "x"}] * batch
    )
    mask = torch.ones(batch, size, 1).bool()
    responses = Responses(prompts, mask.long(), mask, torch.zeros(batch, size).bool(), torch.zeros(batch, size, 1))
    compared = torch.ones_like(wins).bool() if compared is None else compared
    return Rollouts(responses, wins, compared, weights=weights)


def random_wins(batch, size, seed=0):
    upper = torch.rand(batch, size, size, generator=torch.Generator().manual_seed(seed)).triu(1)
    strict = torch.ones(size, size).triu(1)
    return upper + (strict - upper).mT + 0.5 * torch.eye(size)


def without(compared, *missing):
    compared = compared.clone()
    for i, j in missing:
        compared[:, i, j] = compared[:, j, i] = False
    return compared


def slots(pairs):
    return torch.stack([pairs.first, pairs.second], -1)


WINS = [[[0.5, 0.9, 0.2], [0.1, 0.5, 0.4], [0.8, 0.6, 0.5]]]
WHOLE = torch.ones(1, 3, 3).bool()


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_weights_of_a_prompt_sum_to_one_when_everything_was_compared(pairing, size):
    pairs = PAIRINGS[pairing](rollouts(random_wins(6, size)))
    torch.testing.assert_close(pairs.weights.sum(-1), torch.ones(6))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("pairing", FAIR)
def test_the_preference_is_that_of_first_over_second_and_the_likelier_winner_comes_first(pairing, size):
    wins = random_wins(6, size)
    pairs = PAIRINGS[pairing](rollouts(wins))
    for b, p in itertools.product(range(6), range(pairs.first.shape[1])):
        assert pairs.preference[b, p].item() == pytest.approx(float(wins[b, pairs.first[b, p], pairs.second[b, p]]))
    assert (pairs.preference >= 0.5).all()
    assert (pairs.preference > 0.5).any()
    assert (pairs.first > pairs.second).any()


@pytest.mark.parametrize(
    ("size", "pairing", "expected"),
    [
        (2, "random", {(0, 1)}),
        (5, "random", {(0, 1), (2, 3)}),
        (3, "all", {(0, 1), (0, 2), (1, 2)}),
        (4, "random", {(0, 1), (2, 3)}),
        (4, "all", set(itertools.combinations(range(4), 2))),
    ],
)
def test_which_slots_meet(size, pairing, expected):
    pairs = PAIRINGS[pairing](rollouts(random_wins(3, size)))
    for row in slots(pairs).sort(-1).values.tolist():
        assert {tuple(pair) for pair in row} == expected
        assert len(row) == len(expected)


@pytest.mark.parametrize("pairing", FAIR)
def test_ties_keep_the_order_of_the_slots(pairing):
    pairs = PAIRINGS[pairing](rollouts(torch.full((2, 4, 4), 0.5)))
    assert (pairs.first < pairs.second).all()
    assert (pairs.preference == 0.5).all()
    assert (pairs.weights > 0).all()


def test_best_worst_takes_the_highest_and_the_lowest_win_rate():
    pairs = best_worst(rollouts(WINS))  # win rates 1.6, 1.0 and 1.9, over 3
    assert slots(pairs).tolist() == [[[2, 1]]]
    assert pairs.preference.tolist() == [[1.0]]
    assert pairs.weights.tolist() == [[1.0]]


def test_best_worst_gives_no_weight_to_a_tie_even_one_of_rounding():
    cycle = torch.tensor([[[0.5, 0.7, 0.3], [0.3, 0.5, 0.7], [0.7, 0.3, 0.5]]])
    assert best_worst(rollouts(torch.full((1, 3, 3), 0.5))).weights.tolist() == [[0.0]]
    cycle[0, 0, 1] += 1e-6
    assert best_worst(rollouts(cycle)).weights.tolist() == [[0.0]]
    cycle[0, 0, 1] += 1e-3
    assert best_worst(rollouts(cycle)).weights.tolist() == [[1.0]]


def test_best_worst_gives_no_weight_to_a_pair_that_was_not_compared():
    kept = best_worst(rollouts(WINS, without(WHOLE, (0, 1))))  # win rates 0.7 / 2, 0.9 / 2 and 1.9 / 3
    assert slots(kept).tolist() == [[[2, 0]]]
    assert kept.weights.tolist() == [[1.0]]
    lost = best_worst(rollouts(WINS, without(WHOLE, (1, 2))))  # win rates 1.6 / 3, 0.6 / 2 and 1.3 / 2
    assert slots(lost).tolist() == [[[2, 1]]]
    assert lost.weights.tolist() == [[0.0]]


@pytest.mark.parametrize(("pairing", "left"), [("random", 1 / 2), ("all", 5 / 6)])
def test_a_missing_comparison_weighs_nothing_and_is_not_read(pairing, left):
    wins, compared = random_wins(2, 4), without(torch.ones(2, 4, 4).bool(), (0, 1))
    pairs = PAIRINGS[pairing](rollouts(wins, compared))
    missing = (slots(pairs).sort(-1).values == torch.tensor([0, 1])).all(-1)
    assert (pairs.weights[missing] == 0).all()
    assert (pairs.weights[~missing] > 0).all()
    torch.testing.assert_close(pairs.weights.sum(-1), torch.full((2,), left))
    wins[:, 0, 1] = wins[:, 1, 0] = torch.nan
    again = PAIRINGS[pairing](rollouts(wins, compared))
    assert (again.preference[missing] == 0.5).all()
    torch.testing.assert_close(again.preference[~missing], pairs.preference[~missing])


def test_all_pairs_of_an_enumeration_have_the_law_of_two_independent_draws():
    weights = torch.tensor([[0.5, 0.3, 0.2]])
    pairs = all_pairs(rollouts(WINS, weights=weights))
    assert slots(pairs).tolist() == [[[0, 1], [2, 0], [2, 1]]]
    torch.testing.assert_close(pairs.weights, torch.tensor([[0.3, 0.2, 0.12]]))
    torch.testing.assert_close(pairs.weights.sum(-1), 1 - (weights**2).sum(-1))


def columns(pairs, *policies):
    """Chosen and rejected log-probs of each policy."""
    return [gather(logps, index) for logps in policies for index in (pairs.first, pairs.second)]


@pytest.mark.parametrize("loss", ["dpo", "ipo", "inpo"])
def test_on_an_enumeration_all_pairs_give_the_gradient_of_the_population_over_ordered_pairs(loss):
    size, wins = 4, random_wins(1, 4)
    policy, reference, anchor = (torch.randn(1, size).log_softmax(-1) for _ in range(3))
    mu = anchor.exp()
    pairs = all_pairs(rollouts(wins, weights=mu))
    i, j = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")

    def value(four, last_two, preference):
        if loss == "inpo":
            named = dict(zip(("anchor_chosen_logps", "anchor_rejected_logps"), last_two, strict=True))
            return inpo(*four, **named, eta=1.2, tau=0.4, preference=preference)
        options = {"beta": 0.5} if loss == "dpo" else {"tau": 0.5}
        return {"dpo": dpo, "ipo": ipo}[loss](*four, **options, preference=preference)

    policy.requires_grad_()
    *four, chosen, rejected = columns(pairs, policy, reference, anchor)
    paired = (pairs.weights * value(four, (chosen, rejected), pairs.preference)).sum()
    four = [logps[0, slot] for logps in (policy, reference) for slot in (i, j)]
    whole = (mu[0, i] * mu[0, j] * value(four, (anchor[0, i], anchor[0, j]), wins[0])).sum()
    (expected,) = torch.autograd.grad(whole, policy)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(torch.autograd.grad(paired, policy)[0], expected)


@pytest.mark.parametrize("pairing", FAIR)
def test_in_the_mean_over_drawn_groups_a_fair_pairing_is_the_population_of_distinct_slots(pairing):
    arms, size, preference = 3, 4, random_wins(1, 3)[0]
    policy, reference = torch.randn(arms).log_softmax(-1), torch.randn(arms).log_softmax(-1)
    mu = torch.tensor([0.5, 0.3, 0.2])
    index = torch.tensor(list(itertools.product(range(arms), repeat=size)))
    pairs = PAIRINGS[pairing](rollouts(preference[index[:, :, None], index[:, None, :]]))
    values = ipo(*columns(pairs, policy[index], reference[index]), tau=0.5, preference=pairs.preference)
    mean = mu[index].prod(-1) @ (pairs.weights * values).sum(-1)
    i, j = torch.meshgrid(torch.arange(arms), torch.arange(arms), indexing="ij")
    law = mu[:, None] * mu
    whole = (law * ipo(policy[i], policy[j], reference[i], reference[j], tau=0.5, preference=preference)).sum()
    torch.testing.assert_close(mean, whole)


def test_gather_reads_the_slots_and_carries_the_gradient():
    logps = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], requires_grad=True)
    found = gather(logps, torch.tensor([[2, 0], [1, 1]]))
    assert found.tolist() == [[3.0, 1.0], [5.0, 5.0]]
    (gradient,) = torch.autograd.grad(found.sum(), logps)
    assert gradient.tolist() == [[1.0, 0.0, 1.0], [0.0, 2.0, 0.0]]


@pytest.mark.parametrize("pairing", ["best_worst", "random"])
def test_an_enumeration_is_refused_where_responses_must_be_drawn(pairing):
    with pytest.raises(ValueError, match=f"pairing {pairing} is for drawn responses.*use pairing: all"):
        PAIRINGS[pairing](rollouts(WINS, weights=torch.full((1, 3), 1 / 3)))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_groups_of_one_response_are_refused(pairing):
    with pytest.raises(ValueError, match="pairs need groups of at least two responses, got groups of 1"):
        PAIRINGS[pairing](rollouts(torch.full((2, 1, 1), 0.5)))


def test_a_config_names_the_pairings():
    assert set(PAIRINGS) == {"best_worst", "random", "all"}
    assert [PAIRINGS["best_worst"], PAIRINGS["random"], PAIRINGS["all"]] == [best_worst, random_pairs, all_pairs]
