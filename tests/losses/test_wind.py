"""Risks of WIND: minimised by the exact step, at any law of the responses and any group size; their shape in p.

Everything is enumerated in float64 on policies of a few arms; `exact_step` is the closed form, written independently.
"""

import itertools

import pytest
import torch

from lit_align.losses.wind import implied_win_rates, wind_kl, wind_nce, wind_squared

RISKS = [wind_squared, wind_kl, wind_nce]
LOG_RISKS = [wind_kl, wind_nce]
BETA, ETA = 0.3, 1.5


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def simplex(arms):
    return torch.randn(arms).softmax(0)


def preferences(kind, arms):
    """P[i, j] = probability that arm i beats arm j."""
    if kind == "bradley-terry":
        scores = torch.randn(arms)
        return torch.sigmoid(scores[:, None] - scores[None, :])
    upper = torch.rand(arms, arms).triu(1)
    upper = upper.round() if kind == "hard" else 0.1 + 0.8 * upper
    strict = torch.ones(arms, arms).triu(1)
    return upper * strict + (1 - upper.T) * strict.T + 0.5 * torch.eye(arms)


def exact_step(anchor, reference, win_rates, beta, eta):
    a, c = 1 / (1 + beta * eta), eta / (1 + beta * eta)
    step = anchor**a * reference ** (1 - a) * torch.exp(c * win_rates)
    return step / step.sum()


def minimiser(objective, arms):
    """The policy that minimises objective(log-probabilities), from uniform."""
    logits = torch.zeros(arms, requires_grad=True)
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        loss = objective(logits.log_softmax(0))
        loss.backward()
        return loss

    solver.step(closure)
    return logits.detach().softmax(0)


@pytest.mark.parametrize("mu", ["anchor", "reference", "uniform"])
@pytest.mark.parametrize(
    ("risk", "kind"),
    [
        (wind_squared, "bradley-terry"),
        (wind_squared, "intransitive"),
        (wind_squared, "hard"),
        (wind_kl, "bradley-terry"),
        (wind_kl, "intransitive"),
        (wind_nce, "bradley-terry"),
        (wind_nce, "intransitive"),
    ],
)
def test_the_population_minimiser_is_the_exact_step_whoever_drew_the_responses(risk, kind, mu):
    for seed, arms in enumerate((4, 7)):
        torch.manual_seed(seed)
        anchor, reference, p = simplex(arms), simplex(arms), preferences(kind, arms)
        win_rates = p @ anchor
        weights = {"anchor": anchor, "reference": reference, "uniform": torch.full((arms,), 1 / arms)}[mu]
        rows = [anchor.log(), reference.log(), win_rates]

        def objective(logps, risk=risk, rows=rows, weights=weights):
            return risk(logps[None], *[row[None] for row in rows], beta=BETA, eta=ETA, weights=weights[None]).sum()

        expected = exact_step(anchor, reference, win_rates, BETA, ETA)
        assert (expected - anchor).abs().max() > 1e-2
        torch.testing.assert_close(minimiser(objective, arms), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("risk", RISKS)
def test_at_the_exact_step_the_implied_win_rates_are_the_true_ones_and_the_gradient_is_zero(risk):
    anchor, reference = simplex(5), simplex(5)
    win_rates = preferences("intransitive", 5) @ anchor
    step = exact_step(anchor, reference, win_rates, BETA, ETA).log()[None].requires_grad_()
    others = [anchor.log()[None], reference.log()[None], win_rates[None]]
    implied = implied_win_rates(step, *others, beta=BETA, eta=ETA)
    torch.testing.assert_close(implied, win_rates[None])
    (gradient,) = torch.autograd.grad(risk(step, *others, beta=BETA, eta=ETA).sum(), step)
    assert gradient.abs().max() < 1e-12


def groups(arms, size, anchor):
    """All groups of this size, and their probabilities under independent draws from the anchor."""
    index = torch.tensor(list(itertools.product(range(arms), repeat=size)))
    return index, anchor[index].prod(1)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_groups_that_include_the_self_comparison_have_the_exact_step_as_minimiser_at_every_size(size):
    arms = 4 if size < 4 else 3
    anchor, reference, p = simplex(arms), simplex(arms), preferences("intransitive", arms)
    index, probability = groups(arms, size, anchor)
    measured = p[index[:, :, None], index[:, None, :]]
    anchors, references = anchor.log()[index], reference.log()[index]

    def solve(risk, win_rates):
        return minimiser(
            lambda logps: probability @ risk(logps[index], anchors, references, win_rates, beta=BETA, eta=ETA), arms
        )

    def slope(found):
        """How many times too far the win rates of `found` spread, by least squares."""
        g = (found.log() - anchor.log()) / ETA + BETA * (found.log() - reference.log())
        centred = p @ anchor - (p @ anchor).mean()
        return float((g - g.mean()) @ centred / (centred @ centred))

    included = measured.mean(-1)
    expected = exact_step(anchor, reference, p @ anchor, BETA, ETA)
    torch.testing.assert_close(solve(wind_squared, included), expected, atol=1e-6, rtol=0)

    excluded = (measured.sum(-1) - 0.5) / (size - 1)
    overshot = exact_step(anchor, reference, size / (size - 1) * (p @ anchor), BETA, ETA)
    torch.testing.assert_close(solve(wind_squared, excluded), overshot, atol=1e-6, rtol=0)
    for risk in LOG_RISKS:
        assert slope(solve(risk, included)) == pytest.approx(1, abs=0.05)


def test_without_a_reference_pull_the_step_is_the_multiplicative_weights_step_of_sppo():
    anchor, reference = simplex(6), simplex(6)
    win_rates = preferences("bradley-terry", 6) @ anchor

    def objective(logps):
        rows = [x[None] for x in (logps, anchor.log(), reference.log(), win_rates)]
        return wind_squared(*rows, beta=0.0, eta=ETA).sum()

    sppo = anchor * torch.exp(ETA * win_rates)
    torch.testing.assert_close(minimiser(objective, 6), sppo / sppo.sum(), atol=1e-6, rtol=0)


def test_the_step_is_that_of_inpo_with_its_eta_at_beta_plus_one_over_eta():
    policy, anchor, reference, win_rates = simplex(6).log(), simplex(6).log(), simplex(6).log(), torch.rand(6)
    inpo, tau = BETA + 1 / ETA, BETA
    h = policy - tau / inpo * reference - (inpo - tau) / inpo * anchor
    rows = [x[None] for x in (policy, anchor, reference, win_rates)]
    implied = implied_win_rates(*rows, beta=BETA, eta=ETA)[0]
    torch.testing.assert_close(implied - implied[0], inpo * (h - h[0]))
    step = torch.softmax(tau / inpo * reference + (inpo - tau) / inpo * anchor + win_rates / inpo, 0)
    torch.testing.assert_close(exact_step(anchor.exp(), reference.exp(), win_rates, BETA, ETA), step)


@pytest.mark.parametrize("weighted", [False, True])
def test_where_all_policies_agree_the_squared_risk_is_the_variance_of_the_win_rates(weighted):
    logps, win_rates = -100 * torch.rand(3, 5), torch.rand(3, 5)
    weights = torch.rand(3, 5).softmax(-1) if weighted else torch.full((3, 5), 0.2)
    options = {"beta": BETA, "eta": ETA, "weights": weights if weighted else None}
    mean = (weights * win_rates).sum(-1, keepdim=True)
    implied = implied_win_rates(logps, logps, logps, win_rates, **options)
    torch.testing.assert_close(implied, mean.expand(3, 5))
    variance = (weights * (win_rates - mean) ** 2).sum(-1)
    torch.testing.assert_close(wind_squared(logps, logps, logps, win_rates, **options), variance)


@pytest.mark.parametrize(("beta", "eta"), [(-0.1, 1.0), (0.1, 0.0), (0.1, -1.0)])
@pytest.mark.parametrize("function", [implied_win_rates, *RISKS])
def test_a_beta_below_zero_or_an_eta_not_above_is_refused(function, beta, eta):
    rows = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="beta must be" if beta < 0 else "eta must be"):
        function(rows, rows, rows, rows, beta=beta, eta=eta)
