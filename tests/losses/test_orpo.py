"""ORPO: values, the gradient of the odds, the likelihood that is left without them, and where the odds are ratios."""

import math

import pytest
import torch

from lit_align.losses.orpo import log_odds, orpo
from lit_align.losses.simpo import simpo
from tests.algorithms.case import PAIRS, Case
from tests.algorithms.formulas import logistic
from tests.losses.pair_losses import LENGTHS, NOT_NEGATIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

ORPO = PairLoss(orpo, {"odds_weight": 0.3}, {"odds_weight": NOT_NEGATIVE}, reference=False, lengths=True)


def written_out(row, rows):
    """The loss of a prompt, at lambda 0.3."""
    odds = [math.exp(x / n) / (1 - math.exp(x / n)) for x, n in zip(row.policy, row.lengths, strict=True)]
    return row.mean_nll + 0.3 * row.label(logistic(1.0), math.log(odds[0] / odds[1]))


CASE = Case("ORPO", {"odds_weight": 0.3, **PAIRS}, written_out, written_out, refused={"odds_weight": [-0.1]})
CHOSEN, REJECTED = LENGTHS


def test_the_loss_by_hand():
    rows = torch.tensor([3 * math.log(0.8)]), torch.tensor([4 * math.log(0.5)])  # odds 4 and 1
    lengths = {"chosen_lengths": torch.tensor([3]), "rejected_lengths": torch.tensor([4])}
    value = orpo(*rows, **lengths, odds_weight=0.3)
    assert value.item() == pytest.approx(-math.log(0.8) - 0.3 * math.log(4 / 5))
    turned = orpo(*rows, **lengths, odds_weight=0.3, preference=0.0)
    assert turned.item() == pytest.approx(-math.log(0.5) - 0.3 * math.log(1 / 5))


def test_without_weight_on_the_odds_it_is_the_likelihood_of_the_chosen_response():
    torch.testing.assert_close(ORPO(*columns(), odds_weight=0.0), -columns_means()[0])


def columns_means():
    torch.manual_seed(0)
    chosen, rejected, *_ = columns()
    torch.manual_seed(0)
    return chosen / CHOSEN, rejected / REJECTED


def test_the_gradient_of_the_odds_is_that_of_the_ratio_over_the_probability_of_another_token():
    chosen, rejected = (mean.requires_grad_() for mean in columns_means())
    pairs = chosen * CHOSEN, rejected * REJECTED
    up, down = torch.autograd.grad(
        (ORPO(*pairs, odds_weight=2.0) - ORPO(*pairs, odds_weight=0.0)).sum(), (chosen, rejected)
    )
    with torch.no_grad():
        missed = 2.0 * torch.sigmoid(torch.logit(rejected.exp()) - torch.logit(chosen.exp()))
    torch.testing.assert_close(up, -missed / (1 - chosen.exp()))
    torch.testing.assert_close(down, missed / (1 - rejected.exp()))


def test_where_tokens_are_rare_the_odds_are_those_of_simpo_without_a_target():
    rows = [row - 40.0 * length for row, length in zip(columns()[:2], LENGTHS, strict=True)]
    lengths = {"chosen_lengths": CHOSEN, "rejected_lengths": REJECTED}
    odds = orpo(*rows, **lengths, odds_weight=1.0) + rows[0] / CHOSEN
    torch.testing.assert_close(odds, simpo(*rows, **lengths, beta=1.0, gamma=0.0))


@pytest.mark.parametrize("probability", [1e-12, 0.3, 0.5, 0.7, 1 - 1e-9])
def test_the_log_odds_are_those_of_the_probability(probability):
    logp = torch.tensor(math.log1p(probability - 1)) if probability > 0.5 else torch.tensor(math.log(probability))
    assert log_odds(logp).item() == pytest.approx(math.log(probability) - math.log1p(-probability), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_response_that_is_certain_or_impossible_has_finite_odds_and_gradients(dtype):
    logp = torch.tensor([0.0, -1e-30, -1e4], dtype=dtype, requires_grad=True)
    odds = log_odds(logp)
    assert odds.isfinite().all()
    assert (odds[:-1] >= odds[1:]).all()
    (gradient,) = torch.autograd.grad(odds.sum(), logp)
    assert gradient.isfinite().all()
