"""What all losses of a pair have in common: labels, gradients, extremes, and what they refuse."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from tests.declared import declared
from tests.losses.pair_losses import PairLoss, columns

pytestmark = pytest.mark.usefixtures("double")

PAIR_LOSSES = {loss.loss.__name__: loss for loss in declared(PairLoss)}
few = settings(max_examples=20, deadline=None, derandomize=True)
a_pair = st.tuples(*[st.floats(-30, 0)] * 4, st.floats(0, 1))
some_pairs = st.lists(a_pair, min_size=1, max_size=5)
STEPS_OVER_A_CONSTANT = {"alpha_dpo": {"alpha": 0.0}}  # differences see through a stopped gradient, autograd does not


@pytest.fixture(params=PAIR_LOSSES, ids=str)
def name(request):
    return request.param


@few
@given(drawn=some_pairs)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_preference_is_the_mean_over_the_label(name, drawn):
    loss = PAIR_LOSSES[name]
    *rows, p = torch.tensor(drawn, dtype=torch.float64).unbind(-1)
    mean = p * loss(*rows) + (1 - p) * loss(*rows, swapped=True)
    torch.testing.assert_close(loss(*rows, preference=p), mean)


@few
@given(drawn=some_pairs)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_swapping_the_responses_and_turning_the_preference_changes_nothing(name, drawn):
    loss = PAIR_LOSSES[name]
    *rows, p = torch.tensor(drawn, dtype=torch.float64).unbind(-1)
    torch.testing.assert_close(loss(*rows, preference=1 - p, swapped=True), loss(*rows, preference=p))


def test_the_gradient_makes_the_chosen_response_likelier_than_the_rejected_one(name):
    base = -20 * torch.rand(2, 5)
    rows = [row.requires_grad_() for row in base.clone()]
    up, down = torch.autograd.grad(PAIR_LOSSES[name](*rows, *base).sum(), rows, allow_unused=True)
    assert (up <= 0).all()
    assert up.sum() < 0
    if name == "xpo":  # whoever won, the reference's response is pushed down, here the rejected one
        assert (down > 0.3).all()
    elif name != "minor_dpo":  # which leaves the rejected response alone at the reference
        assert (down >= 0).all()
        assert down.sum() > 0


def test_gradients_match_finite_differences(name):
    rows, preference = [row.requires_grad_() for row in columns()], torch.rand(5)
    options = STEPS_OVER_A_CONSTANT.get(name, {})
    assert torch.autograd.gradcheck(lambda *x: PAIR_LOSSES[name](*x, preference=preference, **options), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(name, dtype):
    for signs in itertools.product((-1e4, -1.0, 1e4), repeat=4):
        rows = [torch.tensor([sign], dtype=dtype, requires_grad=True) for sign in signs]
        value = PAIR_LOSSES[name](*rows, preference=0.9)
        gradients = torch.autograd.grad(value.sum(), rows, allow_unused=True)
        assert value.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [(n, a, value) for n, loss in PAIR_LOSSES.items() for a, values in loss.refused.items() for value in values],
)
def test_arguments_out_of_range_are_refused_by_name(name, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must be .*, got {value}"):
        PAIR_LOSSES[name](*columns(), **{argument: value})


@pytest.mark.parametrize("preference", [-0.5, 1.5])
def test_a_preference_that_is_no_probability_is_refused(name, preference):
    with pytest.raises(ValueError, match=rf"preference must be in \[0, 1\], got {preference}"):
        PAIR_LOSSES[name](*columns(), preference=preference)


def test_columns_of_different_length_are_refused(name):
    chosen, rejected, *reference = columns()
    with pytest.raises(TypeCheckError):
        PAIR_LOSSES[name](chosen, rejected[:1], *reference)
