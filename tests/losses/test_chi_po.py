"""chi-PO: values, the clip, extremes, and the population minimiser, which is Lambert's function of the reward."""

import math

import pytest
import torch

from lit_align.losses.chi_po import chi_po
from tests.losses.chi_squared import chi_squared_law, lambert
from tests.losses.enumeration import bradley_terry, minimiser, over_pairs, simplex, tilted
from tests.losses.pair_losses import POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

CHI_PO = PairLoss(chi_po, {"beta": 0.2, "r_max": 1e3}, {"beta": POSITIVE, "r_max": POSITIVE})


def of_logratios(chosen, rejected, **options):
    """The loss of given log-ratios."""
    zeros = torch.zeros_like(chosen)
    return chi_po(chosen, rejected, zeros, zeros, **options)


def test_lambert_s_function_is_the_inverse_it_is_said_to_be():
    w = torch.tensor([1e-6, 0.1, 1.0, 3.0, 50.0])
    torch.testing.assert_close(lambert(w * w.exp()), w)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # log-ratios 1 and -½
    difference = 0.2 * ((math.e + 1) - (math.exp(-0.5) - 0.5))
    assert chi_po(*rows, beta=0.2, r_max=1.0).item() == pytest.approx(math.log(1 + math.exp(-difference)))
    assert chi_po(*rows, beta=0.2, r_max=0.1).item() == pytest.approx(math.log(1 + math.exp(-0.2)))
    turned = chi_po(*rows, beta=0.2, r_max=1.0, preference=0.0)
    assert turned.item() == pytest.approx(math.log(1 + math.exp(difference)))


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_where_the_policy_is_the_reference_the_loss_is_log_2_and_its_gradient_twice_that_of_dpo(preference):
    chosen, rejected, *_ = columns()
    policy = chosen.clone().requires_grad_()
    value = chi_po(policy, rejected, chosen, rejected, beta=0.2, r_max=1.0, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), math.log(2)))
    (gradient,) = torch.autograd.grad(value.sum(), policy)  # the slope of phi in the log-ratio is 1 + z = 2
    torch.testing.assert_close(gradient, torch.full((5,), -0.2 * (2 * preference - 1)))


def test_beyond_the_clip_the_loss_is_flat_on_either_side():
    u = torch.tensor([-4.0, 4.0], requires_grad=True)
    value = of_logratios(u, torch.zeros(2), beta=1.0, r_max=0.5)
    torch.testing.assert_close(value, torch.nn.functional.softplus(torch.tensor([1.0, -1.0])))
    assert torch.autograd.grad(value.sum(), u)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_beyond_the_range_of_floats_are_clipped_to_the_value_of_the_limit(dtype):
    u = torch.tensor([1e4, -1e4, 200.0, 90.0], dtype=dtype, requires_grad=True)
    value = of_logratios(u, -u, beta=0.1, r_max=1.0)
    (gradient,) = torch.autograd.grad(value.sum(), u)
    limits = torch.nn.functional.softplus(torch.tensor([-2.0, 2.0, -2.0, -2.0], dtype=dtype))
    torch.testing.assert_close(value, limits)
    assert gradient.tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("law", ["reference", "any"])
@pytest.mark.parametrize("beta", [0.3, 2.0])
def test_the_population_minimiser_is_lambert_s_function_of_the_reward_whatever_the_law_of_the_pairs(law, beta):
    for seed, arms in enumerate((3, 5)):
        torch.manual_seed(seed)
        reference, rewards = simplex(arms), torch.randn(arms)
        expected = chi_squared_law(reference, rewards, beta)
        torch.testing.assert_close(expected.sum(), torch.tensor(1.0))
        pairs = reference[:, None] * reference if law == "reference" else simplex(arms * arms).view(arms, arms)
        objective = over_pairs(chi_po, pairs, bradley_terry(rewards), reference, beta=beta, r_max=50.0)
        torch.testing.assert_close(minimiser(objective, arms), expected, atol=1e-6, rtol=0)
        assert (expected - tilted(reference, rewards / beta)).abs().max() > 1e-3
