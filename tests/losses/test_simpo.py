"""SimPO: values, means of tokens, the target margin, and the limit in which it is the logistic loss of DPO."""

import math

import pytest
import torch

from lit_align.losses.dpo import dpo
from lit_align.losses.simpo import simpo
from tests.losses.pair_losses import LENGTHS, NOT_NEGATIVE, POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

SIMPO = PairLoss(
    simpo,
    {"beta": 2.0, "gamma": 0.7},
    {"beta": POSITIVE, "gamma": NOT_NEGATIVE},
    reference=False,
    lengths=True,
)


def test_the_loss_by_hand():
    rows = torch.tensor([-6.0]), torch.tensor([-10.0])
    lengths = {"chosen_lengths": torch.tensor([3]), "rejected_lengths": torch.tensor([4])}  # means -2 and -5/2
    value = simpo(*rows, **lengths, beta=2.0, gamma=0.3)
    assert value.item() == pytest.approx(math.log(1 + math.exp(0.3 - 2.0 * 0.5)))
    turned = simpo(*rows, **lengths, beta=2.0, gamma=0.3, preference=0.0)
    assert turned.item() == pytest.approx(math.log(1 + math.exp(0.3 + 2.0 * 0.5)))


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 1.5])
def test_where_the_mean_log_probs_are_equal_the_loss_is_that_of_the_target_margin(gamma, preference):
    chosen, rejected = LENGTHS
    value = SIMPO(-0.7 * chosen.double(), -0.7 * rejected.double(), gamma=gamma, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), math.log(1 + math.exp(gamma))))


def test_the_gradient_is_beta_a_token_times_the_probability_of_missing_the_margin():
    rows = [row.requires_grad_() for row in columns()[:2]]
    chosen, rejected = LENGTHS
    up, down = torch.autograd.grad(SIMPO(*rows).sum(), rows)
    with torch.no_grad():
        weight = 2.0 * torch.sigmoid(0.7 - 2.0 * (rows[0] / chosen - rows[1] / rejected))
    torch.testing.assert_close(up, -weight / chosen)
    torch.testing.assert_close(down, weight / rejected)


def test_without_a_target_and_with_one_token_it_is_dpo_against_a_uniform_reference():
    ones, (policy_chosen, policy_rejected, *_) = torch.ones(5, dtype=torch.long), columns()
    uniform = torch.full((5,), -3.0)
    value = simpo(policy_chosen, policy_rejected, chosen_lengths=ones, rejected_lengths=ones, beta=0.4, gamma=0.0)
    torch.testing.assert_close(value, dpo(policy_chosen, policy_rejected, uniform, uniform, beta=0.4))
