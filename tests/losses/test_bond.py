"""BOND: best-of-n weights and quantiles against enumeration, and the gradient of the Jeffreys divergence."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_align.losses.bond import best_of_n_weights, bond_rewards, jeffreys, quantiles, sampled_bond_rewards
from tests.losses.enumeration import kl, over_tuples, simplex

pytestmark = pytest.mark.usefixtures("double")

few = settings(max_examples=30, deadline=None, derandomize=True)
TIED = torch.tensor([0.3, -1.0, 0.3, 2.0, -1.0])


def shares_of_the_best(rewards):
    """1 on the best of each row, shared equally where the best tie."""
    best = (rewards == rewards.max(-1, keepdim=True).values).to(torch.float64)
    return best / best.sum(-1, keepdim=True)


def best_of_n(policy, rewards, n):
    """The best-of-n law by going through all n-tuples of draws."""
    index, probability = over_tuples(policy, n)
    mass = probability[:, None] * shares_of_the_best(rewards[index])
    return torch.zeros_like(policy).index_add(0, index.flatten(), mass.flatten())


def exact_quantiles(policy, rewards):
    at_most, below = quantiles(rewards[None], rewards[None], policy[None])
    return at_most[0], below[0]


@few
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.data())
def test_the_weights_are_the_share_of_subsets_in_which_a_response_is_the_best(drawn, data):
    n = data.draw(st.integers(1, len(drawn)))
    rewards = torch.tensor(drawn, dtype=torch.float64)
    subsets = torch.tensor(list(itertools.combinations(range(len(drawn)), n)))
    shares = shares_of_the_best(rewards[subsets]) / len(subsets)
    expected = torch.zeros_like(rewards).index_add(0, subsets.flatten(), shares.flatten())
    torch.testing.assert_close(best_of_n_weights(rewards[None], n)[0], expected)


def test_the_weights_by_hand():
    rewards = torch.tensor([[3.0, 1.0, 4.0, 2.0]])
    torch.testing.assert_close(best_of_n_weights(rewards, 2) * 6, torch.tensor([[2.0, 0.0, 3.0, 1.0]]))
    tied = torch.tensor([[1.0, 1.0, 4.0, 1.0]])
    torch.testing.assert_close(best_of_n_weights(tied, 2) * 6, torch.tensor([[1.0, 1.0, 3.0, 1.0]]))


def test_best_of_one_weighs_all_equally_and_best_of_all_takes_the_best():
    rewards = torch.randn(3, 7)
    torch.testing.assert_close(best_of_n_weights(rewards, 1), torch.full((3, 7), 1 / 7))
    torch.testing.assert_close(best_of_n_weights(rewards, 7), shares_of_the_best(rewards))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_large_groups_sum_to_one_and_grow_with_the_reward(dtype):
    for n in (2, 64, 200):
        weights = best_of_n_weights(torch.arange(256, dtype=dtype)[None], n)
        assert weights.dtype == dtype
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert (weights.diff() >= 0).all()
        assert weights[0, -1].item() == pytest.approx(n / 256)


@pytest.mark.parametrize("n", [2, 3])
def test_weighted_sums_are_unbiased_for_expectations_under_the_best_of_n_law(n):
    policy, rewards = simplex(4), torch.tensor([0.0, 1.0, 1.0, 3.0])
    index, probability = over_tuples(policy, 4)
    weights = best_of_n_weights(rewards[index], n)
    mean = torch.zeros(4).index_add(0, index.flatten(), (probability[:, None] * weights).flatten())
    torch.testing.assert_close(mean, best_of_n(policy, rewards, n))


@pytest.mark.parametrize("n", [0, -1, 5])
def test_best_of_more_than_the_group_or_less_than_one_is_refused(n):
    with pytest.raises(ValueError, match=f"n must be between 1 and the group size 4, got {n}"):
        best_of_n_weights(torch.rand(2, 4), n)


def test_rewards_that_are_not_known_are_left_out_of_the_group():
    rewards = torch.tensor([[3.0, 9.0, 1.0, 4.0, -9.0, 2.0], [1.0, 1.0, 1.0, 4.0, 4.0, 4.0]])
    known = torch.tensor([[True, False, True, True, False, True], [False, True, False, False, False, True]])
    weights = best_of_n_weights(rewards, 2, known)
    torch.testing.assert_close(weights[0, known[0]] * 6, torch.tensor([2.0, 0.0, 3.0, 1.0]))
    torch.testing.assert_close(weights[1], torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]))
    assert (weights[~known] == 0).all()
    assert (best_of_n_weights(rewards, 3, known)[1] == 0).all()


def test_estimated_rewards_by_hand():
    placed, drawn = torch.tensor([[-5.0, 1.0, 9.0]]), torch.tensor([[0.0, 1.0, 1.0, 2.0]])
    found = sampled_bond_rewards(placed, drawn, n=3, law="approximate")
    torch.testing.assert_close(found, torch.tensor([[-2 * (1 + 1 / 2 + 1 / 3 + 1 / 4), -2 / 4, 0.0]]))
    q = torch.tensor([1.0, 1 / 3, 1.0])  # nothing lies at or below the first
    exact = sampled_bond_rewards(placed, drawn, n=3, law="exact")
    torch.testing.assert_close(exact - found, (1 + q + q**2).log()[None])


@pytest.mark.parametrize("law", ["exact", "approximate"])
def test_draws_without_a_reward_are_as_if_they_had_not_been(law):
    placed, drawn = torch.randn(1, 3), torch.randn(1, 6)
    known = torch.tensor([[True, False, True, True, False, True]])
    few = sampled_bond_rewards(placed, drawn[known][None], n=2, law=law)
    torch.testing.assert_close(sampled_bond_rewards(placed, drawn, known, n=2, law=law), few)


def mean_estimate(quantile, draws, n):
    """Of the log-quantile times n - 1: the mean over how many of the draws are at most as good."""
    drawn = (torch.arange(draws) >= torch.arange(draws + 1)[:, None]).to(torch.float64)  # row j: j zeros, then ones
    found = sampled_bond_rewards(torch.full((draws + 1, 1), 0.5), drawn, n=n, law="approximate")[:, 0]
    chances = [math.comb(draws, j) * quantile**j * (1 - quantile) ** (draws - j) for j in range(draws + 1)]
    return sum(chance * float(value) for chance, value in zip(chances, found, strict=True))


@pytest.mark.parametrize("draws", [1, 2, 5, 16])
@pytest.mark.parametrize("quantile", [0.0, 0.2, 0.9, 1.0])
def test_the_mean_estimate_is_the_series_of_the_logarithm_up_to_the_number_of_draws(quantile, draws):
    series = -sum((1 - quantile) ** m / m for m in range(1, draws + 1))
    assert mean_estimate(quantile, draws, n=3) == pytest.approx(2 * series)


@pytest.mark.parametrize(("draws", "share"), [(2, 0.70), (4, 0.86), (8, 0.95), (16, 0.98)])
def test_with_so_many_draws_the_law_aimed_at_has_this_share_of_the_rise_of_best_of_2(draws, share):
    quantiles = (torch.arange(1000) + 0.5) / 1000  # of many responses of small probability
    aim = torch.tensor([mean_estimate(float(quantile), draws, n=2) for quantile in quantiles]).softmax(0)
    best_of_2 = (2 * quantiles) / (2 * quantiles).sum()
    assert (aim @ quantiles - 0.5) / (best_of_2 @ quantiles - 0.5) == pytest.approx(share, abs=0.005)


def test_quantiles_under_a_known_law_are_its_cumulative_probabilities():
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    at_most, below = quantiles(torch.tensor([[-5.0, 1.0, 9.0]]), torch.tensor([[0.0, 1.0, 1.0, 2.0]]), weights)
    torch.testing.assert_close(at_most, torch.tensor([[0.0, 0.6, 1.0]]))
    torch.testing.assert_close(below, torch.tensor([[0.0, 0.1, 1.0]]))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_exact_rewards_turn_the_law_drawn_from_into_best_of_n(n):
    policy = simplex(5)
    rewards = bond_rewards(*exact_quantiles(policy, TIED), n=n, law="exact")
    torch.testing.assert_close(policy * rewards.exp(), best_of_n(policy, TIED, n))


def test_approximate_rewards_drop_a_term_between_0_and_log_n():
    at_most, below = exact_quantiles(simplex(5), TIED)
    torch.testing.assert_close(bond_rewards(at_most, below, n=4, law="approximate"), 3 * at_most.log())
    dropped = bond_rewards(at_most, below, n=4, law="exact") - 3 * at_most.log()
    q = below / at_most
    torch.testing.assert_close(dropped, (1 + q + q**2 + q**3).log())
    assert dropped.min() >= -1e-12
    assert dropped.max() <= math.log(4)


@pytest.mark.parametrize("law", ["exact", "approximate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_stay_finite_for_the_worst_response_and_a_large_n(dtype, law):
    at_most = torch.tensor([1e-4, 0.5, 1.0], dtype=dtype)
    rewards = bond_rewards(at_most, at_most * 0.5, n=10_000, law=law)
    assert rewards.isfinite().all()
    assert (rewards.diff() > 0).all()
    assert rewards[0].item() == pytest.approx(9999 * math.log(1e-4), rel=1e-4)


def test_best_of_none_is_refused():
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        bond_rewards(torch.ones(2), torch.zeros(2), n=0, law="exact")


def surrogate(logps, anchor, target, beta, baseline=0.0):
    """The surrogate with both laws enumerated."""
    advantages = target.log() - logps + baseline
    forward = target.expand(1, -1)
    return jeffreys(logps[None], forward, logps[None], advantages[None], beta=beta, weights=logps.exp()[None]).sum()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_enumerated_gradient_is_that_of_the_jeffreys_divergence(beta):
    anchor, logits = simplex(5), torch.randn(5).requires_grad_()
    target = best_of_n(anchor, TIED, 3)
    pi = logits.softmax(0)
    (expected,) = torch.autograd.grad((1 - beta) * kl(target, pi) + beta * kl(pi, target), logits)
    assert expected.abs().max() > 1e-2
    for baseline in (0.0, 4.0):
        (found,) = torch.autograd.grad(surrogate(logits.log_softmax(0), anchor, target, beta, baseline), logits)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_descending_the_surrogate_of_samples_in_the_mean_leads_to_best_of_n(beta):
    anchor, n = simplex(4), 2
    rewards = torch.tensor([0.0, 1.0, 1.0, 3.0])
    index, probability = over_tuples(anchor, 3)
    target = best_of_n(anchor, rewards, n)
    bond = bond_rewards(*exact_quantiles(anchor, rewards), n=n, law="exact")

    def gradient(logits):
        """Mean over groups of three anchor samples; the policy's own are enumerated."""
        logps = logits.log_softmax(0)
        groups = len(index)
        policy = logps.expand(groups, -1)
        advantages = (bond - (logps - anchor.log())).expand(groups, -1)
        weights = best_of_n_weights(rewards[index], n)
        values = jeffreys(logps[index], weights, policy, advantages, beta=beta, weights=policy.exp())
        return torch.autograd.grad(probability @ values, logits)[0]

    assert gradient(target.log().requires_grad_()).abs().max() < 1e-12
    logits = anchor.log().requires_grad_()
    for _ in range(400):
        logits = (logits - gradient(logits)).detach().requires_grad_()
    assert kl(target, logits.softmax(0)).item() < 1e-3 < kl(target, anchor).item()


def test_the_surrogate_by_hand():
    forward, backward = torch.tensor([[-1.0, -2.0]], requires_grad=True), torch.tensor([[-4.0]], requires_grad=True)
    value = jeffreys(forward, torch.tensor([[0.75, 0.25]]), backward, torch.tensor([[0.5]]), beta=0.4)
    assert value.item() == pytest.approx(0.6 * 1.25 + 0.4 * 0.5 * 4)
    gradients = torch.autograd.grad(value.sum(), [forward, backward])
    torch.testing.assert_close(gradients[0], torch.tensor([[-0.45, -0.15]]))
    torch.testing.assert_close(gradients[1], torch.tensor([[-0.2]]))


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_a_beta_outside_0_to_1_is_refused(beta):
    with pytest.raises(ValueError, match=rf"beta must be in \[0, 1\], got {beta}"):
        jeffreys(*[torch.rand(2, 3) for _ in range(4)], beta=beta)
