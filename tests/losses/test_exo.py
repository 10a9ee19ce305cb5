"""EXO: values, weights as repeated samples, and minimisers: of groups the tilted reference, of pairs the log-odds."""

import math

import pytest
import torch

from lit_align.losses.exo import exo, exo_pairwise
from tests.losses.enumeration import kl, minimiser, simplex, tilted, total_variation
from tests.losses.pair_losses import POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

EXO_PAIRWISE = PairLoss(
    exo_pairwise, {"beta": 0.2, "eps": 0.1}, {"beta": POSITIVE, "eps": [0.0, -0.1, 0.5, float("nan")]}
)

BETAS = {"beta_policy": 0.5, "beta_reward": 0.8}


def groups(batch=3, group=4):
    """Log-probs of policy and reference, and rewards."""
    return -20 * torch.rand(batch, group), -20 * torch.rand(batch, group), torch.randn(batch, group)


def test_the_loss_by_hand():
    policy, reference = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-2.0, -2.0]])  # log-ratios 1 and -1
    q = 1 / (1 + math.exp(-0.5 * 2))
    p = 1 / (1 + math.exp(-0.3 / 0.8))
    value = exo(policy, reference, torch.tensor([[0.4, 0.1]]), **BETAS)
    assert value.item() == pytest.approx(q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p)))


def test_it_is_the_reverse_divergence_of_the_two_softmaxes():
    policy, reference, rewards = groups()
    for row in range(3):
        q = (0.5 * (policy - reference)[row]).softmax(-1)
        p = (rewards[row] / 0.8).softmax(-1)
        torch.testing.assert_close(exo(policy, reference, rewards, **BETAS)[row], kl(q, p))
        assert (kl(q, p) - kl(p, q)).abs() > 1e-2


def test_where_the_policy_is_the_reference_the_loss_is_the_divergence_of_the_uniform_law():
    policy, _, rewards = groups()
    target = (rewards / 0.8).log_softmax(-1)
    torch.testing.assert_close(exo(policy, policy, rewards, **BETAS), -target.mean(-1) - math.log(4))


def test_a_weight_is_a_response_that_was_drawn_as_often():
    policy, reference, rewards = groups(1, 3)
    often = torch.tensor([0, 0, 0, 1, 2, 2])
    repeated = exo(policy[:, often], reference[:, often], rewards[:, often], **BETAS)
    weights = torch.tensor([[3.0, 1.0, 2.0]]) / 6
    torch.testing.assert_close(exo(policy, reference, rewards, **BETAS, weights=weights), repeated)


def test_a_response_of_probability_0_does_not_count():
    policy, reference, rewards = groups(2, 3)
    policy.requires_grad_()
    weights = torch.tensor([[0.5, 0.5, 0.0]]).expand(2, 3)
    value = exo(policy, reference, rewards, **BETAS, weights=weights)
    torch.testing.assert_close(value, exo(policy[:, :2], reference[:, :2], rewards[:, :2], **BETAS))
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    assert gradient.isfinite().all()
    assert gradient[:, 2].tolist() == [0.0, 0.0]


def test_a_constant_in_the_rewards_or_the_log_ratios_changes_nothing():
    policy, reference, rewards = groups()
    value = exo(policy, reference, rewards, **BETAS)
    torch.testing.assert_close(exo(policy + 3, reference, rewards, **BETAS), value)
    torch.testing.assert_close(exo(policy, reference, rewards - 2, **BETAS), value)


@pytest.mark.parametrize("law", ["reference", "any"])
def test_the_minimiser_is_the_reference_tilted_by_the_reward_over_both_betas_whatever_the_law_of_the_responses(law):
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        reference, rewards = simplex(arms), torch.randn(arms)
        weights = reference if law == "reference" else simplex(arms)

        def objective(logps, mu=weights, ref=reference, r=rewards):
            return exo(logps[None], ref.log()[None], r[None], **BETAS, weights=mu[None]).sum()

        found = minimiser(objective, arms)
        torch.testing.assert_close(found, tilted(reference, rewards / (0.5 * 0.8)), atol=1e-6, rtol=0)


def test_gradients_match_finite_differences():
    policy, reference, rewards = [row.requires_grad_() for row in groups()]
    weights = torch.rand(3, 4).softmax(-1)
    policy = (reference + torch.randn(3, 4)).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: exo(*x, **BETAS, weights=weights), (policy, reference, rewards))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(dtype):
    policy = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], dtype=dtype, requires_grad=True)
    rewards = torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 1.0]], dtype=dtype)
    value = exo(policy, torch.zeros_like(rewards), rewards, beta_policy=1.0, beta_reward=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), policy)
    torch.testing.assert_close(value[0].item(), 2e4)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["beta_policy", "beta_reward"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be > 0, got {value}"):
        exo(*groups(), **(BETAS | {name: value}))


def test_the_loss_of_a_pair_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # margin 3/2
    q = 1 / (1 + math.exp(-0.3))
    value = exo_pairwise(*rows, beta=0.2, eps=0.1)
    assert value.item() == pytest.approx(q * math.log(q / 0.9) + (1 - q) * math.log((1 - q) / 0.1))


def test_a_pair_is_a_group_of_two_whose_rewards_are_the_log_odds_of_the_smoothed_label():
    chosen, rejected, *reference = columns()
    value = exo_pairwise(chosen, rejected, *reference, beta=0.5, eps=0.1)
    rewards = torch.tensor([math.log(0.9), math.log(0.1)]).expand(5, 2)
    policy, base = torch.stack([chosen, rejected], -1), torch.stack(reference, -1)
    torch.testing.assert_close(value, exo(policy, base, rewards, beta_policy=0.5, beta_reward=1.0))


def test_where_the_policy_is_the_reference_the_loss_of_a_pair_is_that_of_a_coin():
    chosen, rejected, *_ = columns()
    value = exo_pairwise(chosen, rejected, chosen, rejected, beta=0.2, eps=0.1)
    torch.testing.assert_close(value, torch.full((5,), -0.5 * math.log(4 * 0.1 * 0.9)))


@pytest.mark.parametrize("preference", [1.0, 0.8, 0.5])
def test_the_margin_of_a_pair_ends_at_the_log_odds_of_its_label_as_far_as_the_label_is_sure(preference):
    reference = simplex(2)

    def objective(logps):
        rows = logps[:1], logps[1:], reference.log()[:1], reference.log()[1:]
        return exo_pairwise(*rows, beta=0.5, eps=0.1, preference=preference).sum()

    found = minimiser(objective, 2)
    h = (found / reference).log()
    expected = (2 * preference - 1) * math.log(0.9 / 0.1)
    assert 0.5 * float(h[0] - h[1]) == pytest.approx(expected, abs=1e-5)
    assert preference == 0.5 or total_variation(found, reference) > 1e-2
