"""MPO's preference term: values, bounds, and the weight of its gradient."""

import math

import pytest
import torch

from lit_align.losses.mpo import mpo
from tests.losses.pair_losses import PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

MPO = PairLoss(mpo, {}, reference=False)


def test_the_loss_by_hand():
    value = mpo(torch.tensor([-2.0]), torch.tensor([-3.5]))
    assert value.item() == pytest.approx(-1 / (1 + math.exp(-1.5)))
    turned = mpo(torch.tensor([-2.0]), torch.tensor([-3.5]), preference=0.2)
    assert turned.item() == pytest.approx(-(0.2 / (1 + math.exp(-1.5)) + 0.8 / (1 + math.exp(1.5))))


def test_equally_likely_responses_cost_minus_one_half_whatever_the_preference():
    chosen = columns()[0]
    for preference in (0.0, 0.3, 1.0):
        torch.testing.assert_close(mpo(chosen, chosen, preference=preference), torch.full((5,), -0.5))


def test_it_is_minus_the_law_of_the_policy_restricted_to_the_pair():
    law = torch.randn(4).softmax(0)
    torch.testing.assert_close(mpo(law.log()[:2], law.log()[2:]), -law[:2] / (law[:2] + law[2:]))


def test_the_gradient_weight_is_largest_for_a_coin_and_vanishes_at_both_ends():
    d = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(mpo(d, torch.zeros(5)).sum(), d)
    with torch.no_grad():
        torch.testing.assert_close(gradient, -torch.sigmoid(d) * torch.sigmoid(-d))
    assert gradient.argmin() == 2
    assert gradient[[0, -1]].abs().max() < 1e-20
