"""SPPO: with the true offset the minimiser is the exact step, with the offset of one half it is biased."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_align.losses.sppo import sppo, sppo_offset, sppo_regression
from tests.losses.enumeration import intransitive, minimiser, over_tuples, simplex, tilted, total_variation

pytestmark = pytest.mark.usefixtures("double")

BETA = 0.3
few = settings(max_examples=30, deadline=None, derandomize=True)


def pairs(count=5):
    """Log-probs of policy and anchor, chosen and rejected each; and their win rates."""
    return [*(-20 * torch.rand(count) for _ in range(4)), *torch.rand(2, count).unbind()]


def loss(*rows, beta=BETA, **options):
    *four, chosen, rejected = rows
    return sppo(*four, beta=beta, chosen_win_rates=chosen, rejected_win_rates=rejected, **options)


def regression(logps, anchor, win_rates, **options):
    return sppo_regression(logps[None], anchor.log()[None], win_rates[None], **options).sum()


def test_the_loss_by_hand():
    rows = [torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.5, 0.9, 0.2)]  # log-ratios 1 and -½
    # Targets 4 and -3 with the offset one half, 3 and -4 with 0.6.
    assert loss(*rows, beta=0.1).item() == pytest.approx(0.5 * (3**2 + 2.5**2))
    assert loss(*rows, beta=0.1, offset=0.6).item() == pytest.approx(0.5 * (2**2 + 3.5**2))
    assert loss(*rows, beta=0.1, offset=torch.tensor([0.6])).item() == pytest.approx(0.5 * (2**2 + 3.5**2))


def test_a_pair_is_a_group_of_two_and_its_offset_that_of_the_prompt():
    pc, pr, ac, ar, wc, wr = pairs()
    offset = torch.rand(5)
    groups = [torch.stack(columns, -1) for columns in ((pc, pr), (ac, ar), (wc, wr))]
    value = sppo_regression(*groups, beta=BETA, offset=offset)
    torch.testing.assert_close(value, loss(pc, pr, ac, ar, wc, wr, offset=offset))


def test_pairs_of_one_prompt_share_its_offset():
    rows, offset = [row.view(2, 3) for row in pairs(6)], torch.rand(2, 1)
    torch.testing.assert_close(loss(*rows, offset=offset), loss(*rows, offset=offset.expand(2, 3)))


def test_swapping_the_responses_changes_nothing():
    rows = pairs()
    torch.testing.assert_close(loss(*[rows[i] for i in (1, 0, 3, 2, 5, 4)]), loss(*rows))


def test_where_the_policy_is_the_anchor_the_loss_is_half_the_sum_of_squared_targets():
    chosen, rejected, _, _, *win_rates = pairs()
    expected = sum(((w - 0.5) / BETA) ** 2 for w in win_rates) / 2
    torch.testing.assert_close(loss(chosen, rejected, chosen, rejected, *win_rates), expected)


def test_from_the_anchor_winners_rise_and_losers_fall_in_proportion():
    logps = (-20 * torch.rand(1, 4)).requires_grad_()
    win_rates = torch.tensor([[0.1, 0.4, 0.6, 0.9]])
    value = sppo_regression(logps, logps.detach(), win_rates, beta=BETA, offset=0.5)
    (gradient,) = torch.autograd.grad(value.sum(), logps)
    torch.testing.assert_close(gradient, -2 / 4 * (win_rates - 0.5) / BETA)


def test_gradients_match_finite_differences():
    *rows, chosen, rejected = pairs()
    rows = [row.requires_grad_() for row in rows]
    assert torch.autograd.gradcheck(lambda *x: loss(*x, chosen, rejected), rows)
    groups = [(-20 * torch.rand(2, 3)).requires_grad_() for _ in range(2)]
    weights, win_rates, offset = torch.rand(2, 3).softmax(-1), torch.rand(2, 3), torch.rand(2)
    for mu in (None, weights):
        check = lambda *x, mu=mu: sppo_regression(*x, win_rates, beta=BETA, offset=offset, weights=mu)  # noqa: E731
        assert torch.autograd.gradcheck(check, groups)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_at_extreme_log_ratios(dtype):
    chosen = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    zeros, win_rates = torch.zeros(2, dtype=dtype), torch.ones(2, dtype=dtype)
    value = loss(chosen, -chosen, zeros, zeros, win_rates, 1 - win_rates, beta=1e-3)
    (gradient,) = torch.autograd.grad(value.sum(), chosen)
    assert value.isfinite().all()
    torch.testing.assert_close(gradient, 2 * (chosen.detach() - 500))


@pytest.mark.parametrize("mu", ["anchor", "uniform"])
def test_with_the_true_offset_the_population_minimiser_is_the_exact_step_whoever_drew_the_responses(mu):
    for seed, arms in enumerate((3, 6)):
        torch.manual_seed(seed)
        anchor, preference = simplex(arms), intransitive(arms)
        win_rates = preference @ anchor
        weights = anchor if mu == "anchor" else torch.full((arms,), 1 / arms)
        offset = sppo_offset(win_rates[None], beta=BETA, weights=anchor[None])
        options = {"beta": BETA, "offset": offset, "weights": weights[None]}
        expected = tilted(anchor, win_rates / BETA)
        found = minimiser(lambda x, a=anchor, w=win_rates, o=options: regression(x, a, w, **o), arms)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        assert float(regression(expected.log(), anchor, win_rates, **options)) == pytest.approx(0, abs=1e-20)


def test_T9_the_offset_of_one_half_biases_the_step_the_less_the_smaller_the_step():
    torch.manual_seed(1)
    anchor, preference = simplex(6), intransitive(6)
    win_rates = preference @ anchor

    def bias(beta):
        options = {"beta": beta, "offset": 0.5, "weights": anchor[None]}
        found = minimiser(lambda x: regression(x, anchor, win_rates, **options), 6)
        return total_variation(found, tilted(anchor, win_rates / beta))

    assert bias(0.1) > 0.1
    # Third order: the log-ratios' common error is of second order, and normalisation takes up its leading part.
    assert bias(1.0) / bias(10.0) == pytest.approx(1000, rel=0.3)


def test_on_groups_of_the_anchor_win_rates_without_the_self_comparison_have_the_exact_step_as_minimiser():
    torch.manual_seed(0)
    anchor, preference = simplex(4), intransitive(4)
    index, probability = over_tuples(anchor, 3)
    wins = preference[index[:, :, None], index[:, None, :]]
    offset = float(sppo_offset((preference @ anchor)[None], beta=BETA, weights=anchor[None]))

    def solve(win_rates):
        rows = [anchor.log()[index], win_rates]
        return minimiser(lambda x: probability @ sppo_regression(x[index], *rows, beta=BETA, offset=offset), 4)

    expected = tilted(anchor, preference @ anchor / BETA)
    torch.testing.assert_close(solve((wins.sum(-1) - 0.5) / 2), expected, atol=1e-6, rtol=0)
    assert total_variation(solve(wins.mean(-1)), expected) > 1e-2


@few
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.floats(1e-3, 1e3))
def test_the_offset_lies_between_the_mean_and_the_largest_win_rate_and_moves_with_them(drawn, beta):
    win_rates = torch.tensor([drawn], dtype=torch.float64)
    offset = sppo_offset(win_rates, beta=beta)
    assert win_rates.mean() - 1e-9 <= offset.item() <= win_rates.max() + 1e-9
    torch.testing.assert_close(sppo_offset(win_rates + 0.25, beta=beta), offset + 0.25)


def test_the_offset_by_hand_and_at_its_limits():
    win_rates, weights = torch.tensor([[0.2, 0.8]]), torch.tensor([[0.75, 0.25]])
    by_hand = 0.3 * math.log(0.75 * math.exp(0.2 / 0.3) + 0.25 * math.exp(0.8 / 0.3))
    assert sppo_offset(win_rates, beta=0.3, weights=weights).item() == pytest.approx(by_hand)
    assert sppo_offset(win_rates, beta=1e6, weights=weights).item() == pytest.approx(0.35, abs=1e-6)
    assert sppo_offset(win_rates, beta=1e-9, weights=weights).item() == pytest.approx(0.8, abs=1e-6)
    assert sppo_offset(win_rates, beta=1e-9, weights=torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.2)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.nan])
def test_a_beta_that_is_not_positive_is_refused(beta):
    groups = [torch.rand(2, 3) for _ in range(3)]
    for call in (
        lambda: loss(*pairs(), beta=beta),
        lambda: sppo_regression(*groups, beta=beta, offset=0.5),
        lambda: sppo_offset(groups[2], beta=beta),
    ):
        with pytest.raises(ValueError, match=f"beta must be > 0, got {beta}"):
            call()
