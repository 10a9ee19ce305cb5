"""DPO and its two answers to noisy labels: values, gradients, population minimisers under Bradley–Terry preferences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from lit_align.losses.dpo import dpo, robust_dpo
from tests.losses.enumeration import bradley_terry, minimiser, over_pairs, simplex, tilted

pytestmark = pytest.mark.usefixtures("double")

BETA = 0.2
LOSSES = [dpo, robust_dpo]
some_pairs = st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), min_size=1, max_size=4)
some_eps = st.floats(0, 0.45)
few = settings(max_examples=30, deadline=None, derandomize=True)


def pairs(count=5):
    """Log-probs of the four kinds."""
    return [-20 * torch.rand(count) for _ in range(4)]


def of_margins(loss, margins, **options):
    """The loss of given margins."""
    h = torch.as_tensor(margins)
    zeros = torch.zeros_like(h)
    return loss(h / 2, -h / 2, zeros, zeros, beta=BETA, **options)


def columns(drawn):
    """Margins and preferences as tensors."""
    return torch.tensor(drawn, dtype=torch.float64).unbind(-1)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # log-ratios 1 and -½, margin 3/2
    assert dpo(*rows, beta=0.2).item() == pytest.approx(math.log(1 + math.exp(-0.3)))
    smoothed = 0.9 * math.log(1 + math.exp(-0.3)) + 0.1 * math.log(1 + math.exp(0.3))
    assert dpo(*rows, beta=0.2, eps=0.1).item() == pytest.approx(smoothed)
    robust = (0.9 * math.log(1 + math.exp(-0.3)) - 0.1 * math.log(1 + math.exp(0.3))) / 0.8
    assert robust_dpo(*rows, beta=0.2, eps=0.1).item() == pytest.approx(robust)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_where_the_policy_is_the_reference_the_loss_is_log_2(loss, preference):
    chosen, rejected, *_ = pairs()
    value = loss(chosen, rejected, chosen, rejected, beta=BETA, eps=0.1, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), math.log(2)))


@pytest.mark.parametrize("loss", LOSSES)
@few
@given(some_pairs, some_eps)
def test_swapping_the_responses_and_turning_the_preference_changes_nothing(loss, drawn, eps):
    h, p = columns(drawn)
    turned = of_margins(loss, -h, preference=1 - p, eps=eps)
    torch.testing.assert_close(turned, of_margins(loss, h, preference=p, eps=eps))


@pytest.mark.parametrize("loss", LOSSES)
@few
@given(some_pairs, some_eps)
def test_a_preference_is_the_mean_over_the_label(loss, drawn, eps):
    h, p = columns(drawn)
    mean = p * of_margins(loss, h, eps=eps) + (1 - p) * of_margins(loss, -h, eps=eps)
    torch.testing.assert_close(of_margins(loss, h, preference=p, eps=eps), mean)


@few
@given(some_pairs, some_eps)
def test_smoothing_is_a_flipped_label_and_robust_dpo_undoes_the_flip(drawn, eps):
    h, p = columns(drawn)
    observed = p * (1 - eps) + (1 - p) * eps
    flipped = of_margins(dpo, h, preference=observed)
    torch.testing.assert_close(of_margins(dpo, h, preference=p, eps=eps), flipped)
    unbiased = of_margins(robust_dpo, h, preference=observed, eps=eps)
    torch.testing.assert_close(unbiased, of_margins(dpo, h, preference=p), atol=1e-10, rtol=1e-10)


def test_without_noise_robust_dpo_is_dpo():
    rows = pairs()
    torch.testing.assert_close(robust_dpo(*rows, beta=BETA, eps=0.0), dpo(*rows, beta=BETA))


def test_the_gradient_weight_is_beta_times_the_probability_of_being_wrong():
    rows = [row.requires_grad_() for row in pairs()]
    h = (rows[0] - rows[2] - rows[1] + rows[3]).detach()
    gradients = torch.autograd.grad(dpo(*rows, beta=BETA).sum(), rows)
    weight = BETA * torch.sigmoid(-BETA * h)
    for gradient, sign in zip(gradients, (-1, 1, 1, -1), strict=True):
        torch.testing.assert_close(gradient, sign * weight)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_match_finite_differences(loss):
    rows, preference = [row.requires_grad_() for row in pairs()], torch.rand(5)
    assert torch.autograd.gradcheck(lambda *x: loss(*x, beta=BETA, eps=0.1, preference=preference), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(loss, dtype):
    chosen = torch.tensor([1e4, -1e4, 1e4, -1e4], dtype=dtype, requires_grad=True)
    zeros = torch.zeros(4, dtype=dtype)
    value = loss(chosen, -chosen, zeros, zeros, beta=1.0, eps=0.0)
    (gradient,) = torch.autograd.grad(value.sum(), chosen)
    torch.testing.assert_close(value, torch.tensor([0.0, 2e4, 0.0, 2e4], dtype=dtype))
    torch.testing.assert_close(gradient, torch.tensor([0.0, -2.0, 0.0, -2.0], dtype=dtype))


def test_robust_dpo_pushes_a_margin_without_end():
    h = torch.tensor([1e3, 1e4], requires_grad=True)
    (gradient,) = torch.autograd.grad(of_margins(robust_dpo, h, eps=0.1).sum(), h)
    torch.testing.assert_close(gradient, torch.full((2,), -BETA * 0.1 / 0.8))


@pytest.mark.parametrize("law", ["anchor", "uniform", "any"])
def test_A1_the_population_minimiser_under_bradley_terry_is_the_tilted_anchor_whatever_the_law_of_the_pairs(law):
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        anchor, rewards = simplex(arms), torch.randn(arms)
        laws = {
            "anchor": anchor[:, None] * anchor,
            "uniform": torch.full((arms, arms), arms**-2.0),
            "any": simplex(arms * arms).view(arms, arms),
        }
        objective = over_pairs(dpo, laws[law], bradley_terry(rewards), anchor, beta=0.5)
        torch.testing.assert_close(minimiser(objective, arms), tilted(anchor, rewards / 0.5), atol=1e-6, rtol=0)


def test_robust_dpo_on_flipped_labels_has_the_minimiser_of_the_true_ones_and_dpo_has_not():
    anchor, rewards, eps = simplex(5), torch.randn(5), 0.2
    law, preference = anchor[:, None] * anchor, bradley_terry(rewards)
    observed = preference * (1 - eps) + (1 - preference) * eps
    expected = tilted(anchor, rewards / 0.5)
    robust = minimiser(over_pairs(robust_dpo, law, observed, anchor, beta=0.5, eps=eps), 5)
    torch.testing.assert_close(robust, expected, atol=1e-6, rtol=0)
    assert (minimiser(over_pairs(dpo, law, observed, anchor, beta=0.5), 5) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("eps", [0.1, 0.3])
def test_a_smoothed_hard_label_has_a_finite_margin_log_odds_over_beta(eps):
    anchor, hard = simplex(2), torch.tensor([[0.5, 1.0], [0.0, 0.5]])
    found = minimiser(over_pairs(dpo, torch.full((2, 2), 0.25), hard, anchor, beta=0.5, eps=eps), 2)
    margin = (found / anchor).log()
    assert 0.5 * float(margin[0] - margin[1]) == pytest.approx(math.log((1 - eps) / eps), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 0.0, "eps": 0.1}, "beta must be > 0, got 0.0"),
        ({"beta": -1.0, "eps": 0.1}, "beta must be > 0, got -1.0"),
        ({"beta": math.nan, "eps": 0.1}, "beta must be > 0, got nan"),
        ({"beta": 0.1, "eps": 0.5}, r"eps must be in \[0, 0.5\), got 0.5"),
        ({"beta": 0.1, "eps": -0.1}, r"eps must be in \[0, 0.5\), got -0.1"),
        ({"beta": 0.1, "eps": 0.1, "preference": 1.5}, r"preference must be in \[0, 1\], got 1.5"),
        ({"beta": 0.1, "eps": 0.1, "preference": -0.5}, r"preference must be in \[0, 1\], got -0.5"),
    ],
)
@pytest.mark.parametrize("loss", LOSSES)
def test_arguments_out_of_range_are_refused_by_name(loss, options, named):
    with pytest.raises(ValueError, match=named):
        loss(*pairs(), **options)


@pytest.mark.parametrize("loss", LOSSES)
def test_columns_of_different_length_are_refused(loss):
    *rows, last = pairs()
    with pytest.raises(TypeCheckError):
        loss(*rows, last[:1], beta=BETA, eps=0.1)
