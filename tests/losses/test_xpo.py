"""XPO: values, the limit in which it is DPO, and optimism, which pushes down what the reference drew."""

import itertools
import math

import pytest
import torch

from lit_align.losses.dpo import dpo
from lit_align.losses.xpo import xpo
from tests.losses.enumeration import bradley_terry, minimiser, simplex, tilted
from tests.losses.pair_losses import NOT_NEGATIVE, POSITIVE, PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

XPO = PairLoss(xpo, {"beta": 0.2, "alpha": 0.3}, {"beta": POSITIVE, "alpha": NOT_NEGATIVE}, explored=True)

OPTIONS = {"beta": 0.2, "alpha": 0.3}


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # margin 3/2
    value = xpo(*rows, explored_logps=rows[1], **OPTIONS)
    assert value.item() == pytest.approx(math.log(1 + math.exp(-0.3)) + 0.3 * -12)
    turned = xpo(*rows, explored_logps=rows[1], **OPTIONS, preference=0.0)
    assert turned.item() == pytest.approx(math.log(1 + math.exp(0.3)) + 0.3 * -12)


@pytest.mark.parametrize("preference", [0.3, 1.0])
def test_with_alpha_0_it_is_dpo(preference):
    rows = columns()
    value = xpo(*rows, explored_logps=rows[1], beta=0.2, alpha=0.0, preference=preference)
    torch.testing.assert_close(value, dpo(*rows, beta=0.2, preference=preference))


def test_where_the_policy_is_the_reference_the_loss_is_log_2_and_the_optimism():
    chosen, rejected, *_ = columns()
    value = xpo(chosen, rejected, chosen, rejected, explored_logps=rejected, **OPTIONS)
    torch.testing.assert_close(value, math.log(2) + 0.3 * rejected)


def test_optimism_lowers_the_reference_s_response_whether_it_won_or_lost():
    rows = [row.requires_grad_() for row in columns()]
    of_dpo = torch.autograd.grad(dpo(*rows, beta=0.2).sum(), rows)
    for drawn in (0, 1):
        gradients = torch.autograd.grad(xpo(*rows, explored_logps=rows[drawn], **OPTIONS).sum(), rows)
        for slot, (gradient, same) in enumerate(zip(gradients, of_dpo, strict=True)):
            torch.testing.assert_close(gradient, same + 0.3 * (slot == drawn))


def test_the_population_minimiser_has_less_of_what_the_reference_says_than_that_of_dpo():
    reference, rewards = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.0, -0.2])
    drawn, beta = simplex(3), 0.5
    index = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    law = drawn[index[0]] * reference[index[1]]
    preference = bradley_terry(rewards)[index[0], index[1]]

    def found(alpha):
        def objective(logps):
            rows = [column[slots] for column in (logps, reference.log()) for slots in index]
            losses = xpo(*rows, explored_logps=rows[1], beta=beta, alpha=alpha, preference=preference)
            return (law * losses).sum()

        return minimiser(objective, 3)

    torch.testing.assert_close(found(0.0), tilted(reference, rewards / beta), atol=1e-6, rtol=0)
    laws = [found(alpha) for alpha in (0.0, 0.005, 0.02)]
    for less, more in itertools.pairwise(laws):
        assert (reference * more.log()).sum() < (reference * less.log()).sum() - 1e-3
