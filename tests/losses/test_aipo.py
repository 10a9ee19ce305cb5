"""AIPO: values, the weight of its gradient, and the limit in which it is DPO."""

import math

import pytest
import torch

from lit_align.losses.aipo import aipo
from lit_align.losses.dpo import dpo
from tests.losses.pair_losses import LENGTHS, NOT_NEGATIVE, POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

AIPO = PairLoss(
    aipo,
    {"beta": 0.2, "alpha": 0.3, "nll_weight": 0.4},
    {"beta": POSITIVE, "alpha": NOT_NEGATIVE, "nll_weight": NOT_NEGATIVE},
    lengths=True,
)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # s = 2, s_ref = ½
    lengths = {"chosen_lengths": torch.tensor([4]), "rejected_lengths": torch.tensor([3])}
    value = aipo(*rows, **lengths, beta=0.2, alpha=0.4, nll_weight=0.5)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.2 * (2 - 1.4 * 0.5))) + 0.5 * 10 / 4)
    turned = aipo(*rows, **lengths, beta=0.2, alpha=0.4, nll_weight=0.5, preference=0.0)
    assert turned.item() == pytest.approx(math.log(1 + math.exp(0.2 * (2 - 1.4 * 0.5))) + 0.5 * 12 / 3)


@pytest.mark.parametrize("preference", [0.3, 1.0])
def test_with_alpha_and_lambda_0_it_is_dpo_and_each_of_them_changes_it(preference):
    rows, without = columns(), {"alpha": 0.0, "nll_weight": 0.0, "preference": preference}
    expected = dpo(*rows, beta=0.2, preference=preference)
    torch.testing.assert_close(AIPO(*rows, **without), expected)
    for name in ("alpha", "nll_weight"):
        assert (AIPO(*rows, **(without | {name: 0.5})) - expected).abs().max() > 1e-2


def test_where_the_policy_is_the_reference_the_loss_is_that_of_the_reference_s_own_margin_and_nll():
    chosen, rejected, *_ = columns()
    agreement = torch.nn.functional.softplus(0.2 * 0.3 * (chosen - rejected))
    torch.testing.assert_close(AIPO(chosen, rejected, chosen, rejected), agreement - 0.4 * chosen / LENGTHS[0])


def test_the_gradient_weight_grows_where_the_reference_agrees_with_the_label():
    rows = [row.requires_grad_() for row in columns()]
    up, down, *_ = torch.autograd.grad(AIPO(*rows).sum(), rows)
    with torch.no_grad():
        s, s_ref = rows[0] - rows[1], rows[2] - rows[3]
        weight = 0.2 * torch.sigmoid(0.2 * (s_ref - s) + 0.3 * 0.2 * s_ref)
    torch.testing.assert_close(down, weight)
    torch.testing.assert_close(up, -weight - 0.4 / LENGTHS[0])
