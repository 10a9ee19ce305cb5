"""Gradients of the WIND risks: direction, curvature at the truth, tangents outside, symmetries, extreme log-ratios."""

import math

import pytest
import torch

from lit_align.losses.wind import implied_win_rates, wind_kl, wind_nce, wind_squared

RISKS = [wind_squared, wind_kl, wind_nce]
LOG_RISKS = [wind_kl, wind_nce]
DELTA = 1e-2


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def of_one(risk, p, win_rate):
    """The risk of one response as a function of its implied win rate p.

    Its twin has implied win rate 1 - p and win rate 1 - w: the intercept is 1/2, and both have the same risk.
    """
    d = p - 0.5
    w = torch.full_like(p, win_rate)
    zeros = torch.zeros(*p.shape, 2)
    return risk(torch.stack([d, -d], -1), zeros, zeros, torch.stack([w, 1 - w], -1), beta=0.0, eta=1.0)


def slope(risk, p, win_rate):
    p = torch.as_tensor(p, dtype=torch.float64).reshape(-1).requires_grad_()
    (gradient,) = torch.autograd.grad(of_one(risk, p, win_rate).sum(), p)
    return gradient


def some_rows(batch=3, group=5):
    """Log-probabilities of three policies, and win rates."""
    return [*(-3 * torch.rand(batch, group) for _ in range(3)), 0.2 + 0.6 * torch.rand(batch, group)]


@pytest.mark.parametrize("risk", RISKS)
def test_gradients_match_finite_differences(risk):
    *policies, win_rates = some_rows()
    inputs = [x.requires_grad_() for x in policies]
    for weights in (None, torch.rand(3, 5).softmax(-1)):
        assert torch.autograd.gradcheck(lambda *x, w=weights: risk(*x, win_rates, beta=0.2, eta=2.0, weights=w), inputs)


def test_risks_inside_are_the_formulas():
    p, w, q = torch.linspace(0.05, 0.95, 19), 0.3, 0.5
    torch.testing.assert_close(of_one(wind_squared, p, w), (p - w) ** 2)
    torch.testing.assert_close(of_one(wind_kl, p, w), -w * p.log() - (1 - w) * (1 - p).log())
    data = -w * (p / (p + q)).log() - (1 - w) * ((1 - p) / (1 - p + 1 - q)).log()
    noise = -q * (q / (p + q)).log() - (1 - q) * ((1 - q) / (1 - p + 1 - q)).log()
    torch.testing.assert_close(of_one(wind_nce, p, w), data + noise)


@pytest.mark.parametrize(
    ("risk", "expected"), [(wind_squared, 2.0), (wind_kl, 1 / 0.21), (wind_nce, 0.5 / 0.84 + 0.5 / 0.24)]
)
def test_curvature_at_the_truth(risk, expected):
    p = torch.tensor([0.7], requires_grad=True)
    (first,) = torch.autograd.grad(of_one(risk, p, 0.7), p, create_graph=True)
    (second,) = torch.autograd.grad(first, p)
    assert first.abs() < 1e-12
    assert second.item() == pytest.approx(expected)


@pytest.mark.parametrize("risk", RISKS)
def test_the_gradient_raises_a_better_response_and_lowers_a_worse_one(risk):
    logps = (-50 * torch.rand(1, 4)).requires_grad_()
    win_rates = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    loss = risk(logps, logps.detach(), logps.detach(), win_rates, beta=0.1, eta=1.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logps)
    assert (gradient.sign() == torch.tensor([[1.0, 1.0, -1.0, -1.0]])).all()
    assert (gradient.diff() < 0).all()


@pytest.mark.parametrize("risk", LOG_RISKS)
def test_p_is_pulled_towards_the_win_rate_from_anywhere_and_the_pull_never_vanishes(risk):
    p = torch.tensor([-1e4, -3.0, 0.0, DELTA / 2, 0.2, 0.8, 1 - DELTA / 2, 1.0, 4.0, 1e4])
    for win_rate in (2 * DELTA, 0.1, 0.5, 0.9, 1 - 2 * DELTA):
        pull = slope(risk, p, win_rate)
        assert (pull.sign() == (p - win_rate).sign()).all()
        assert pull[[0, 1, -2, -1]].abs().min() > 0.1


@pytest.mark.parametrize("risk", LOG_RISKS)
@pytest.mark.parametrize("win_rate", [0.0, 1e-3])
def test_a_win_rate_beyond_delta_pulls_no_further_than_zero(risk, win_rate):
    assert (slope(risk, [-100.0, -3.0, -0.1], win_rate) <= 1e-9).all()
    assert (slope(risk, [1.1, 4.0, 101.0], 1 - win_rate) >= -1e-9).all()


@pytest.mark.parametrize("risk", LOG_RISKS)
@pytest.mark.parametrize("border", [DELTA, 1 - DELTA])
def test_value_and_gradient_are_continuous_where_the_tangents_begin(risk, border):
    sides = torch.tensor([border - 1e-9, border, border + 1e-9])
    assert of_one(risk, sides, 0.4).diff().abs().max() < 1e-6
    assert slope(risk, sides, 0.4).diff().abs().max() < 1e-4


def test_outside_the_nce_risk_is_its_tangent():
    inner = slope(wind_nce, [DELTA, 1 - DELTA], 0.4)
    outer = slope(wind_nce, [-5.0, 5.0], 0.4)
    torch.testing.assert_close(inner, outer)
    q, p = 0.5, DELTA
    expected = (p - 0.4) * (q / (p * (p + q)) + q / ((1 - p) * (1 - p + q)))
    assert outer[0].item() == pytest.approx(expected)


def test_delta_moves_the_border():
    p = torch.tensor([0.1])
    wide = of_one(lambda *rows, **options: wind_kl(*rows, delta=0.2, **options), p, 0.4)
    tangent = -0.4 * (math.log(0.2) + (0.1 - 0.2) / 0.2) - 0.6 * math.log(0.9)
    assert wide.item() == pytest.approx(tangent)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("risk", RISKS)
def test_gradients_stay_finite_at_extreme_log_ratios(risk, dtype):
    zeros = torch.zeros(2, 2, dtype=dtype)
    logps = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype, requires_grad=True)
    win_rates = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=dtype)
    loss = risk(logps, zeros, zeros, win_rates, beta=0.1, eta=0.5)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (logps.grad.sign() == logps.detach().sign()).all()
    assert logps.grad.isfinite().all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("risk", RISKS)
def test_a_constant_on_a_prompts_log_probs_changes_nothing(risk, weighted):
    rows = some_rows()
    weights = torch.rand(3, 5).softmax(-1) if weighted else None
    loss = risk(*rows, beta=0.2, eta=2.0, weights=weights)
    for which in range(3):
        moved = [row + (i == which) * torch.tensor([[5.0], [-80.0], [0.0]]) for i, row in enumerate(rows)]
        torch.testing.assert_close(risk(*moved, beta=0.2, eta=2.0, weights=weights), loss)


@pytest.mark.parametrize("risk", RISKS)
def test_permuting_a_group_permutes_its_gradients_and_prompts_do_not_mix(risk):
    rows, order = some_rows(), torch.tensor([3, 0, 4, 1, 2])

    def gradient(policy, *others):
        policy = policy.clone().requires_grad_()
        return torch.autograd.grad(risk(policy, *others, beta=0.2, eta=2.0).sum(), policy)[0]

    whole = gradient(*rows)
    torch.testing.assert_close(gradient(*[row[:, order] for row in rows]), whole[:, order])
    torch.testing.assert_close(gradient(*[row[1:2] for row in rows]), whole[1:2])


@pytest.mark.parametrize("function", [implied_win_rates, *RISKS])
def test_a_weight_of_zero_is_the_same_as_leaving_the_response_out(function):
    rows = some_rows()
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0, 0.0]]).expand(3, 5)
    options = {"beta": 0.2, "eta": 2.0}
    whole = function(*rows, weights=weights, **options)
    part = function(*[row[:, :3] for row in rows], weights=weights[:, :3], **options)
    torch.testing.assert_close(whole[:, :3] if whole.dim() == 2 else whole, part)
