"""INPO: its population minimiser is a step of mirror descent when, and only when, both responses are the anchor's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_align.losses.inpo import inpo
from lit_align.losses.ipo import ipo
from tests.losses.enumeration import intransitive, minimiser, over_pairs, simplex, tilted, total_variation

pytestmark = pytest.mark.usefixtures("double")

ETA, TAU = 1.2, 0.5
few = settings(max_examples=30, deadline=None, derandomize=True)


def pairs(count=5):
    """Log-probs of policy, reference, anchor; chosen and rejected each."""
    return [-20 * torch.rand(count) for _ in range(6)]


def loss(*rows, eta=ETA, tau=TAU, **options):
    *four, chosen, rejected = rows
    return inpo(*four, anchor_chosen_logps=chosen, anchor_rejected_logps=rejected, eta=eta, tau=tau, **options)


def step(anchor, reference, preference, eta=ETA, tau=TAU):
    """The mirror descent step, in INPO's own parametrisation."""
    logs = tau / eta * reference.log() + (1 - tau / eta) * anchor.log() + preference @ anchor / eta
    return logs.softmax(0)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5, -10.5, -14.0)]
    # Policy 2, reference ½, anchor 7/2: with tau/eta = ¼ the margin is 2 - 1/8 - 21/8.
    assert loss(*rows, eta=2.0, tau=0.5).item() == pytest.approx((-0.75 - 0.25) ** 2)
    assert loss(*rows, eta=2.0, tau=0.5, preference=0.0).item() == pytest.approx((0.75 - 0.25) ** 2)


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_where_all_policies_agree_the_loss_is_the_square_of_the_target(preference):
    chosen, rejected, *_ = pairs()
    value = loss(*[chosen, rejected] * 3, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), (1 / (2 * ETA)) ** 2))


@few
@given(st.lists(st.tuples(*[st.floats(-30, 0)] * 6, st.floats(0, 1)), min_size=1, max_size=4))
def test_a_preference_is_the_mean_over_the_label_and_swapping_turns_it(drawn):
    *rows, p = torch.tensor(drawn, dtype=torch.float64).unbind(-1)
    swapped = [rows[i] for i in (1, 0, 3, 2, 5, 4)]
    value = loss(*rows, preference=p)
    torch.testing.assert_close(loss(*swapped, preference=1 - p), value)
    torch.testing.assert_close(value, p * loss(*rows) + (1 - p) * loss(*swapped))


def test_the_gradient_raises_the_chosen_response_and_lowers_the_rejected_one():
    chosen, rejected, *_ = pairs()
    inputs = [chosen.requires_grad_(), rejected.requires_grad_()]
    fixed = [chosen.detach(), rejected.detach()]
    up, down = torch.autograd.grad(loss(*inputs, *fixed, *fixed).sum(), inputs)
    torch.testing.assert_close(up, torch.full((5,), -1 / ETA))
    torch.testing.assert_close(down, -up)


def test_gradients_match_finite_differences():
    rows, preference = [row.requires_grad_() for row in pairs()], torch.rand(5)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, preference=preference), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(dtype):
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    value = loss(chosen, -chosen, *[torch.zeros(2, dtype=dtype)] * 4)
    (gradient,) = torch.autograd.grad(value.sum(), chosen)
    assert value.isfinite().all()
    torch.testing.assert_close(gradient, 4 * (2 * chosen.detach() - 1 / (2 * ETA)))


def test_as_eta_falls_to_tau_the_anchor_drops_out_and_the_loss_is_that_of_ipo():
    rows = pairs()
    torch.testing.assert_close(loss(*rows, eta=TAU * (1 + 1e-12), tau=TAU), ipo(*rows[:4], tau=TAU))


@pytest.mark.parametrize("kind", ["a step", "the first step, from the reference"])
def test_T8_on_pairs_of_the_anchor_the_population_minimiser_is_the_mirror_descent_step(kind):
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        reference, preference = simplex(arms), intransitive(arms)
        anchor = simplex(arms) if kind == "a step" else reference
        objective = over_pairs(inpo, anchor[:, None] * anchor, preference, reference, anchor, eta=ETA, tau=TAU)
        expected = step(anchor, reference, preference)
        assert total_variation(expected, anchor) > 1e-2
        torch.testing.assert_close(minimiser(objective, arms), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("source", ["reference", "uniform"])
def test_T8_on_pairs_of_another_policy_the_minimiser_is_not_the_step(source):
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        reference, anchor, preference = simplex(arms), simplex(arms), intransitive(arms)
        mu = reference if source == "reference" else torch.full((arms,), 1 / arms)
        objective = over_pairs(inpo, mu[:, None] * mu, preference, reference, anchor, eta=ETA, tau=TAU)
        assert total_variation(minimiser(objective, arms), step(anchor, reference, preference)) > 1e-3


def test_T10_its_step_is_that_of_wind_with_eta_at_beta_plus_one_over_eta():
    anchor, reference, preference, beta, eta = simplex(5), simplex(5), intransitive(5), 0.3, 1.5
    a, c = 1 / (1 + beta * eta), eta / (1 + beta * eta)
    wind = tilted(anchor**a * reference ** (1 - a), c * preference @ anchor)
    options = {"eta": beta + 1 / eta, "tau": beta}
    objective = over_pairs(inpo, anchor[:, None] * anchor, preference, reference, anchor, **options)
    torch.testing.assert_close(minimiser(objective, 5), wind, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tau": -0.1}, "tau must be >= 0, got -0.1"),
        ({"eta": 0.5, "tau": 0.5}, "eta must be > tau, got eta 0.5 and tau 0.5"),
        ({"eta": math.nan}, "eta must be > tau, got eta nan"),
        ({"preference": -0.5}, r"preference must be in \[0, 1\], got -0.5"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        loss(*pairs(), **options)


def test_without_regularisation_it_is_ipo_against_the_anchor():
    rows = [torch.randn(7, dtype=torch.float64) for _ in range(6)]
    against_anchor = ipo(*rows[:2], *rows[4:], tau=ETA)
    torch.testing.assert_close(loss(*rows, tau=0.0), against_anchor)
