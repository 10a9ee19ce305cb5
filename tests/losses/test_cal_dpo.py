"""Cal-DPO: values, the minimum of a pair, DPO without calibration, and labels in doubt."""

import math

import pytest
import torch

from lit_align.losses.cal_dpo import cal_dpo
from lit_align.losses.dpo import dpo
from tests.algorithms.case import BETA, PAIRS, Case
from tests.algorithms.formulas import softplus
from tests.laws.instances import LBFGS
from tests.losses.pair_losses import NOT_NEGATIVE, POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

CAL_DPO = PairLoss(cal_dpo, {"beta": 0.4, "calibration": 0.3}, {"beta": POSITIVE, "calibration": NOT_NEGATIVE})


def written_out(row, rows):
    """The loss of a prompt, at beta 0.4 and c 0.3."""
    u = [x - r for x, r in zip(row.policy, row.reference, strict=True)]
    losses = [softplus(u[1 - w] - u[w]) + 0.3 * ((u[w] - 1.25) ** 2 + (u[1 - w] + 1.25) ** 2) for w in (0, 1)]
    return row.p * losses[0] + (1 - row.p) * losses[1]


CASE = Case(
    "CalDPO",
    {"beta": 0.4, "calibration": 0.3, **PAIRS},
    written_out,
    lambda r, _: math.log(2) + 0.6 * 1.25**2,
    refused=BETA | {"calibration": [-0.1]},
)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # log-ratios 1 and -1/2
    value = cal_dpo(*rows, beta=0.25, calibration=1.0)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-1.5)) + 1.0 + 1.5**2)
    turned = cal_dpo(*rows, beta=0.25, calibration=1.0, preference=0.0)
    assert turned.item() == pytest.approx(math.log(1 + math.exp(1.5)) + 2.5**2 + 3.0**2)


def minimum(preference, *, beta=0.4, calibration=0.3):
    """The log-ratios of a pair that its loss is smallest at."""
    u, zeros = torch.zeros(2, 1, requires_grad=True), torch.zeros(1)
    solver = LBFGS([u])

    def loss():
        solver.zero_grad()
        value = cal_dpo(u[0], u[1], zeros, zeros, beta=beta, calibration=calibration, preference=preference).sum()
        value.backward()
        return value

    solver.step(loss)
    return u.detach().flatten()


@pytest.mark.parametrize("calibration", [0.1, 1.0])
def test_the_minimum_of_a_certain_pair_is_finite_and_its_slopes_balance(calibration):
    chosen, rejected = minimum(1.0, calibration=calibration)
    torch.testing.assert_close(chosen, -rejected)
    torch.testing.assert_close(2 * calibration * (chosen - 1.25), torch.sigmoid(rejected - chosen))


def test_the_stronger_the_calibration_the_closer_the_log_ratios_are_to_their_values():
    chosen, rejected = minimum(1.0, calibration=1e4)
    torch.testing.assert_close(chosen, torch.tensor(1.25), atol=1e-4, rtol=0)
    torch.testing.assert_close(rejected, torch.tensor(-1.25), atol=1e-4, rtol=0)


def test_a_label_that_is_a_toss_up_keeps_the_policy_at_the_reference():
    torch.testing.assert_close(minimum(0.5), torch.zeros(2), atol=1e-8, rtol=0)


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_without_calibration_it_is_dpo_at_beta_1(preference):
    rows = columns()
    value = cal_dpo(*rows, beta=0.4, calibration=0.0, preference=preference)
    torch.testing.assert_close(value, dpo(*rows, beta=1.0, preference=preference))
