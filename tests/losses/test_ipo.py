"""IPO: values, gradients, and the population minimiser, which depends on the law of the pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_align.losses.ipo import ipo, ipo_mean
from tests.losses.enumeration import intransitive, minimiser, over_pairs, simplex, tilted, total_variation
from tests.losses.pair_losses import POSITIVE, PairLoss

pytestmark = pytest.mark.usefixtures("double")

IPO_MEAN = PairLoss(ipo_mean, {"tau": 0.4}, {"tau": POSITIVE}, lengths=True)

TAU = 0.4
few = settings(max_examples=30, deadline=None, derandomize=True)


def pairs(count=5):
    return [-20 * torch.rand(count) for _ in range(4)]


def of_margins(h, **options):
    zeros = torch.zeros_like(h)
    return ipo(h / 2, -h / 2, zeros, zeros, tau=TAU, **options)


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # margin 3/2
    assert ipo(*rows, tau=0.1).item() == pytest.approx(3.5**2)
    assert ipo(*rows, tau=0.1, preference=0.0).item() == pytest.approx(6.5**2)


@pytest.mark.parametrize("preference", [0.0, 0.3, 1.0])
def test_where_the_policy_is_the_reference_the_loss_is_the_square_of_the_target(preference):
    chosen, rejected, *_ = pairs()
    value = ipo(chosen, rejected, chosen, rejected, tau=TAU, preference=preference)
    torch.testing.assert_close(value, torch.full((5,), (1 / (2 * TAU)) ** 2))


@few
@given(st.lists(st.tuples(st.floats(-30, 30), st.floats(0, 1)), min_size=1, max_size=4))
def test_a_preference_is_the_mean_over_the_label_and_swapping_turns_it(drawn):
    h, p = torch.tensor(drawn, dtype=torch.float64).unbind(-1)
    value = of_margins(h, preference=p)
    torch.testing.assert_close(of_margins(-h, preference=1 - p), value)
    torch.testing.assert_close(value, p * of_margins(h) + (1 - p) * of_margins(-h))


def test_the_margin_is_pulled_to_its_target_from_both_sides():
    h = torch.tensor([-3.0, 0.0, 1 / (2 * TAU), 4.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(of_margins(h).sum(), h)
    torch.testing.assert_close(gradient, 2 * (h.detach() - 1 / (2 * TAU)))


def test_the_gradient_raises_the_chosen_response_and_lowers_the_rejected_one():
    chosen, rejected, *_ = pairs()
    inputs = [chosen.requires_grad_(), rejected.requires_grad_()]
    up, down = torch.autograd.grad(ipo(*inputs, chosen.detach(), rejected.detach(), tau=TAU).sum(), inputs)
    torch.testing.assert_close(up, torch.full((5,), -1 / TAU))
    torch.testing.assert_close(down, -up)


def test_gradients_match_finite_differences():
    rows, preference = [row.requires_grad_() for row in pairs()], torch.rand(5)
    assert torch.autograd.gradcheck(lambda *x: ipo(*x, tau=TAU, preference=preference), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(dtype):
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    zeros = torch.zeros(2, dtype=dtype)
    value = ipo(chosen, -chosen, zeros, zeros, tau=TAU)
    (gradient,) = torch.autograd.grad(value.sum(), chosen)
    assert value.isfinite().all()
    torch.testing.assert_close(gradient, torch.tensor([4, 4]) * (2 * chosen.detach() - 1 / (2 * TAU)))


def test_a_very_strong_tau_asks_for_the_reference():
    h = torch.linspace(-3, 3, 7)
    zeros = torch.zeros(7)
    torch.testing.assert_close(ipo(h, zeros, zeros, zeros, tau=1e9), h**2, atol=1e-7, rtol=1e-7)


def test_the_population_minimiser_is_the_reference_tilted_by_the_win_rate_against_the_law_of_both_responses():
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        reference, mu, preference = simplex(arms), simplex(arms), intransitive(arms)
        expected = tilted(reference, preference @ mu / TAU)
        found = minimiser(over_pairs(ipo, mu[:, None] * mu, preference, reference, tau=TAU), arms)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        other = over_pairs(ipo, torch.full((arms, arms), arms**-2.0), preference, reference, tau=TAU)
        assert total_variation(minimiser(other, arms), expected) > 1e-2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"tau": 0.0}, "tau must be > 0, got 0.0"),
        ({"tau": -1.0}, "tau must be > 0, got -1.0"),
        ({"tau": math.nan}, "tau must be > 0, got nan"),
        ({"tau": 0.1, "preference": 1.5}, r"preference must be in \[0, 1\], got 1.5"),
    ],
)
def test_arguments_out_of_range_are_refused_by_name(options, named):
    with pytest.raises(ValueError, match=named):
        ipo(*pairs(), **options)


def test_the_mean_variant_divides_each_log_ratio_by_its_own_length():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5)]  # log-ratios 1 and -½
    lengths = {"chosen_lengths": torch.tensor([4]), "rejected_lengths": torch.tensor([2])}
    assert ipo_mean(*rows, **lengths, tau=0.1).item() == pytest.approx((1 / 4 + 1 / 4 - 5) ** 2)
    assert ipo_mean(*rows, **lengths, tau=0.1, preference=0.0).item() == pytest.approx((-1 / 4 - 1 / 4 - 5) ** 2)


def test_between_responses_of_one_length_the_mean_variant_is_ipo_with_tau_over_the_length():
    rows, lengths = pairs(), torch.full((5,), 3)
    value = ipo_mean(*rows, chosen_lengths=lengths, rejected_lengths=lengths, tau=TAU, preference=0.7)
    torch.testing.assert_close(value, ipo(*rows, tau=TAU / 3, preference=0.7) / 9)
