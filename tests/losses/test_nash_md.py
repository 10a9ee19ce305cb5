"""Nash-MD: the gradient of the surrogate, enumerated, is that of the regularised win rate."""

import math

import pytest
import torch

from lit_align.losses.nash_md import nash_md
from tests.losses.enumeration import intransitive, kl, over_tuples, simplex, tilted

pytestmark = pytest.mark.usefixtures("double")

TAU = 0.3


def flat(logits):
    """Log-probs of one-token responses."""
    return logits.log_softmax(-1)


def two_tokens(logits):
    """Log-probs of all responses of two tokens, of two words: sums over tokens."""
    first, second = logits[:2].log_softmax(-1), logits[2:].view(2, 2).log_softmax(-1)
    return (first[:, None] + second).flatten()


POLICIES = {"one token": (flat, 5, 5), "two tokens": (two_tokens, 6, 4)}


def instance(policy):
    """Logits and a policy of them; reference, opponent, preferences of its responses."""
    logps, parameters, arms = POLICIES[policy]
    return torch.randn(parameters).requires_grad_(), logps, simplex(arms), simplex(arms), intransitive(arms)


def gradient(value, logits):
    return torch.autograd.grad(value, logits)[0]


def true_gradient(logits, logps, reference, opponent, preference):
    pi = logps(logits).exp()
    return gradient(-(pi @ preference @ opponent) + TAU * kl(pi, reference), logits)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_enumerated_gradient_is_that_of_the_regularised_win_rate(policy):
    logits, logps, reference, opponent, preference = instance(policy)
    rows = logps(logits)[None], reference.log()[None], (preference @ opponent)[None]
    surrogate = nash_md(*rows, tau=TAU, weights=rows[0].exp()).sum()
    expected = true_gradient(logits, logps, reference, opponent, preference)
    assert expected.abs().max() > 1e-2
    torch.testing.assert_close(gradient(surrogate, logits), expected)


@pytest.mark.parametrize("size", [1, 3])
def test_sampled_groups_and_sampled_comparisons_are_unbiased(size):
    logits, logps, reference, opponent, preference = instance("one token")
    index, probability = over_tuples(logps(logits).detach().exp(), size)
    expected = true_gradient(logits, logps, reference, opponent, preference)
    mean = torch.zeros_like(expected)
    for rival, chance in enumerate(opponent):  # one opponent's response for the whole group
        rows = logps(logits)[index], reference.log()[index], preference[index, rival]
        mean += chance * gradient(probability @ nash_md(*rows, tau=TAU), logits)
    torch.testing.assert_close(mean, expected)


def test_a_baseline_changes_the_surrogate_and_not_its_enumerated_gradient():
    logits, logps, reference, opponent, preference = instance("one token")
    values, gradients = [], []
    for baseline in (0.5, 0.0, torch.tensor([3.0])):
        rows = logps(logits)[None], reference.log()[None], (preference @ opponent)[None]
        surrogate = nash_md(*rows, tau=TAU, weights=rows[0].exp(), baseline=baseline).sum()
        values.append(float(surrogate.detach()))
        gradients.append(gradient(surrogate, logits))
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])
    assert abs(values[1] - values[0]) > 1e-2


def test_each_prompt_has_its_own_baseline():
    logps, win_rates, baseline = -torch.rand(2, 3), torch.rand(2, 3), torch.rand(2)
    both = nash_md(logps, logps, win_rates, tau=TAU, baseline=baseline)
    for row in range(2):
        alone = nash_md(logps[[row]], logps[[row]], win_rates[[row]], tau=TAU, baseline=float(baseline[row]))
        torch.testing.assert_close(both[[row]], alone)


def test_the_regularised_best_response_is_stationary():
    reference, opponent, preference = simplex(5), simplex(5), intransitive(5)
    win_rates = preference @ opponent
    logits = tilted(reference, win_rates / TAU).log().requires_grad_()
    rows = flat(logits)[None], reference.log()[None], win_rates[None]
    assert gradient(nash_md(*rows, tau=TAU, weights=rows[0].exp()).sum(), logits).abs().max() < 1e-12


def test_the_surrogate_and_its_gradient_by_hand():
    logps = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    value = nash_md(logps, torch.tensor([[-2.0, -2.5]]), torch.tensor([[0.9, 0.2]]), tau=0.1)
    # Advantages 0.4 - 0.1 * 1 and -0.3 + 0.1 * ½.
    assert value.item() == pytest.approx(-(0.3 * -1 + -0.25 * -3) / 2)
    torch.testing.assert_close(gradient(value.sum(), logps), torch.tensor([[-0.15, 0.125]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_stay_finite_at_extreme_log_ratios_and_pull_back_to_the_reference(dtype):
    logps = torch.tensor([[1e4, -1e4]], dtype=dtype, requires_grad=True)
    rows = logps, torch.zeros(1, 2, dtype=dtype), torch.tensor([[1.0, 0.0]], dtype=dtype)
    slope = gradient(nash_md(*rows, tau=TAU).sum(), logps)
    torch.testing.assert_close(slope, (TAU * logps.detach() - torch.tensor([[0.5, -0.5]], dtype=dtype)) / 2)


@pytest.mark.parametrize("tau", [-0.1, math.nan])
def test_a_negative_tau_is_refused(tau):
    with pytest.raises(ValueError, match=f"tau must be >= 0, got {tau}"):
        nash_md(*[torch.rand(2, 3) for _ in range(3)], tau=tau)
