"""MinorDPO: values, DPO above the reference, and a rejected response that is left alone below it."""

import math

import pytest
import torch

from lit_align.losses.dpo import dpo
from lit_align.losses.minor_dpo import minor_dpo
from tests.losses.pair_losses import POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

MINOR_DPO = PairLoss(minor_dpo, {"beta": 0.2}, {"beta": POSITIVE})

BETA = 0.2


def rows(chosen, rejected):
    """Log-probs of these log-ratios, each taking a gradient."""
    reference = -20 * torch.rand(2, len(chosen))
    policy = torch.stack([torch.as_tensor(chosen), torch.as_tensor(rejected)]) + reference
    return [row.requires_grad_() for row in (*policy, *reference)]


def test_the_loss_by_hand():
    value = minor_dpo(*rows([1.0, 1.0], [0.5, -0.5]), beta=BETA)
    expected = [math.log(1 + math.exp(-BETA * 0.5)), math.log(1 + math.exp(-BETA * 1.0))]
    assert value.tolist() == pytest.approx(expected)
    turned = minor_dpo(*rows([1.0, 1.0], [0.5, -0.5]), beta=BETA, preference=0.0)
    assert turned.tolist() == pytest.approx([math.log(1 + math.exp(BETA * h)) for h in (0.5, 1.5)])


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_where_the_policy_is_the_reference_the_loss_is_log_2(preference):
    chosen, rejected, *_ = columns()
    value = minor_dpo(chosen, rejected, chosen, rejected, beta=BETA, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), math.log(2)))


def test_where_the_rejected_response_is_likelier_than_under_the_reference_it_is_dpo():
    some = rows([-1.0, 0.5, 3.0], [0.1, 2.0, 5.0])
    torch.testing.assert_close(minor_dpo(*some, beta=BETA), dpo(*some, beta=BETA))


def test_where_it_is_not_no_gradient_reaches_it_and_the_loss_is_above_that_of_dpo():
    some = rows([-1.0, 0.5, 3.0], [-0.1, -2.0, -5.0])
    value = minor_dpo(*some, beta=BETA)
    up, down, *_ = torch.autograd.grad(value.sum(), some)
    torch.testing.assert_close(up, -BETA * torch.sigmoid(-BETA * torch.tensor([-1.0, 0.5, 3.0])))
    assert down.tolist() == [0.0, 0.0, 0.0]
    assert (value > dpo(*some, beta=BETA)).all()


def test_at_the_reference_only_the_chosen_response_moves():
    logps = rows([0.0], [0.0])
    same = [logps[0], logps[1], logps[0].detach(), logps[1].detach()]
    up, down = torch.autograd.grad(minor_dpo(*same, beta=BETA).sum(), logps[:2])
    assert (up.item(), down.item()) == (pytest.approx(-BETA / 2), 0.0)
