"""alpha-DPO: values, the gradient that does not pass the margin, and the limit in which it is SimPO."""

import math

import pytest
import torch

from lit_align.losses.alpha_dpo import alpha_dpo
from lit_align.losses.margins import mean_margin
from tests.losses.pair_losses import LENGTHS, NOT_NEGATIVE, POSITIVE, PairLoss, columns
from tests.losses.test_simpo import SIMPO

pytestmark = pytest.mark.usefixtures("double")

ALPHA_DPO = PairLoss(
    alpha_dpo,
    {"beta": 2.0, "gamma": 0.7, "alpha": 0.3, "margin_mean": 0.3, "margin_std": 0.8},
    {"beta": POSITIVE, "gamma": NOT_NEGATIVE, "alpha": NOT_NEGATIVE, "margin_std": POSITIVE},
    lengths=True,
)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-6.0, -10.0, -9.0, -8.0)]  # d = ½; M = 1 + ½ = 3/2
    lengths = {"chosen_lengths": torch.tensor([3]), "rejected_lengths": torch.tensor([4])}
    options = {"beta": 2.0, "gamma": 0.3, "alpha": 0.2, "margin_mean": 0.5, "margin_std": 0.25}
    assert mean_margin(*rows, **lengths).item() == pytest.approx(1.5)
    value = alpha_dpo(*rows, **lengths, **options)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-(2.0 * (0.5 - 0.2 * 4.0) - 0.3))))
    turned = alpha_dpo(*rows, **lengths, **options, preference=0.0)  # d = -½, M = -3/2
    assert turned.item() == pytest.approx(math.log(1 + math.exp(-(2.0 * (-0.5 + 0.2 * 8.0) - 0.3))))


@pytest.mark.parametrize("preference", [0.2, 1.0])
def test_with_alpha_0_it_is_simpo_with_the_same_margin(preference):
    rows = columns()
    value = ALPHA_DPO(*rows, alpha=0.0, preference=preference)
    torch.testing.assert_close(value, SIMPO(*rows, preference=preference))
    assert (ALPHA_DPO(*rows, preference=preference) - value).abs().max() > 1e-2


def test_at_the_reference_with_centred_statistics_it_is_simpo():
    chosen, rejected, *_ = columns()
    value = ALPHA_DPO(chosen, rejected, chosen, rejected, margin_mean=0.0)
    torch.testing.assert_close(value, SIMPO(chosen, rejected, chosen, rejected))


def test_no_gradient_passes_the_adaptive_margin():
    rows = [row.requires_grad_() for row in columns()]
    value = ALPHA_DPO(*rows)
    up, down, *reference = torch.autograd.grad(value.sum(), rows, allow_unused=True)
    assert reference == [None, None]
    weight = 2.0 * (1 - torch.exp(-value.detach()))  # beta times the probability of missing the margin
    torch.testing.assert_close(up, -weight / LENGTHS[0])
    torch.testing.assert_close(down, weight / LENGTHS[1])


def test_a_pair_that_is_told_apart_better_than_the_average_is_asked_for_more():
    zeros, ones = torch.zeros(2), torch.ones(2)
    chosen = torch.tensor([-1.0, 3.0])  # M: two standard deviations below, and above, its mean of 1
    lengths = {"chosen_lengths": ones.long(), "rejected_lengths": ones.long()}
    options = {"beta": 1.0, "gamma": 0.0, "margin_mean": 1.0, "margin_std": 1.0}
    with_alpha = alpha_dpo(chosen, zeros, zeros, zeros, alpha=0.1, **lengths, **options)
    without = alpha_dpo(chosen, zeros, zeros, zeros, alpha=0.0, **lengths, **options)
    assert with_alpha[0] < without[0]
    assert with_alpha[1] > without[1]
