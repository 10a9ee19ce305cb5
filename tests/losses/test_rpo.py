"""RPO: values, the limit in which it is DPO, and the supervised gradient of sums and of means."""

import math

import pytest
import torch

from lit_align.losses.dpo import dpo
from lit_align.losses.rpo import rpo, rpo_mean
from tests.losses.pair_losses import LENGTHS, NOT_NEGATIVE, POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

RPO = PairLoss(rpo, {"beta": 0.2, "eta": 0.3}, {"beta": POSITIVE, "eta": NOT_NEGATIVE})
RPO_MEAN = PairLoss(rpo_mean, {"beta": 0.2, "eta": 0.3}, {"beta": POSITIVE, "eta": NOT_NEGATIVE}, lengths=True)
LOSSES = {"rpo": RPO, "rpo_mean": RPO_MEAN}

BETA, ETA = 0.2, 0.3
BOTH = ["rpo", "rpo_mean"]


def test_the_losses_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # margin 3/2
    lengths = {"chosen_lengths": torch.tensor([4]), "rejected_lengths": torch.tensor([3])}
    logistic, turned = math.log(1 + math.exp(-0.3)), math.log(1 + math.exp(0.3))
    assert rpo(*rows, beta=BETA, eta=ETA).item() == pytest.approx(logistic + ETA * BETA * 10)
    assert rpo(*rows, beta=BETA, eta=ETA, preference=0.0).item() == pytest.approx(turned + ETA * BETA * 12)
    assert rpo_mean(*rows, **lengths, beta=BETA, eta=ETA).item() == pytest.approx(logistic + ETA * 10 / 4)
    mean = rpo_mean(*rows, **lengths, beta=BETA, eta=ETA, preference=0.0)
    assert mean.item() == pytest.approx(turned + ETA * 12 / 3)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("preference", [0.3, 1.0])
def test_with_eta_0_it_is_dpo(name, preference):
    rows = columns()
    value = LOSSES[name](*rows, eta=0.0, preference=preference)
    torch.testing.assert_close(value, dpo(*rows, beta=BETA, preference=preference))


def test_where_the_policy_is_the_reference_the_loss_is_log_2_and_the_nll():
    chosen, rejected, *_ = columns()
    value = rpo(chosen, rejected, chosen, rejected, beta=BETA, eta=ETA)
    torch.testing.assert_close(value, math.log(2) - ETA * BETA * chosen)


@pytest.mark.parametrize("name", BOTH)
def test_the_supervised_loss_pulls_the_chosen_response_alone(name):
    rows = [row.requires_grad_() for row in columns()]
    gradients = torch.autograd.grad(LOSSES[name](*rows).sum(), rows)
    of_dpo = torch.autograd.grad(dpo(*rows, beta=BETA).sum(), rows)
    pull = torch.full((5,), BETA * ETA) if name == "rpo" else ETA / LENGTHS[0]
    torch.testing.assert_close(gradients[0], of_dpo[0] - pull)
    for gradient, same in zip(gradients[1:], of_dpo[1:], strict=True):
        torch.testing.assert_close(gradient, same)
