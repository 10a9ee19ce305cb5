r"""Risks of win-rate dominance (WIND) regress an implied win rate on a measured one.

[1] T. Yang, J. Mei, H. Dai, Z. Wen, S. Cen, D. Schuurmans, Y. Chi, B. Dai, "Faster WIND: Accelerating Iterative
    Best-of-N Distillation for LLM Alignment", AISTATS 2025, arXiv:2410.20727.

One exact WIND step is, with :math:`w_t(y) = P(y \succ \pi_t)`,

.. math::
    \pi_{t+1}(y) \propto \pi_t(y)^{1/(1+\beta\eta)} \, \pi_{ref}(y)^{\beta\eta/(1+\beta\eta)} \,
        \exp\big(\tfrac{\eta}{1+\beta\eta} w_t(y)\big),

which is the same as saying that the *implied win rate* :math:`p = g + V` equals :math:`w_t`, where

.. math::
    g(y) = \tfrac{1+\beta\eta}{\eta} \log\pi_{t+1}(y) - \tfrac{1}{\eta}\log\pi_t(y) - \beta\log\pi_{ref}(y)

and the intercept :math:`V` depends on the prompt alone. ``beta`` >= 0 is the KL strength towards the reference, and
larger keeps the policy closer to it; ``eta`` > 0 is the step size, and larger moves further from the anchor. Each risk
is minimised, over policies and intercepts, by :math:`p = w_t` on the support of the responses, hence by exactly
:math:`\pi_{t+1}`, whatever law the responses are drawn from. Where the group itself is the opponent, which is how the
module trains, its responses have to be drawn from :math:`\pi_t`: draws of another law make a step against that law.
This view is derived from the exact step. [1] has risks of the same names, but its own parametrisation of the KL and NCE
risks was not available to us: these are provably consistent forms and not transcriptions.

The intercept is solved in closed form for each prompt, :math:`V = \sum_i \mu_i (w_i - g_i)`: both sides are centred
within the group. ``win_rates`` must *include* the self-comparison (½), as `Rollouts.win_rates` do: then the squared
risk has the exact step as its population minimiser at every group size K, while excluding it overshoots by K/(K-1).
With the same intercept the KL and NCE risks keep a finite-K bias (derived): they fall short of the step by 5 to 15 %
where preferences are hard, by 10 to 15 % at K = 3 to 8 with four responses, and by 1 % or less where preferences are
those of Bradley-Terry rewards a nat or so apart.

Comparisons may be missing, in any pattern that does not depend on the responses (derived). The K' responses that were
compared at all are the group; the others have weight 0. With :math:`w_i = \tfrac12 + \tfrac{K'-1}{K'} (w^{others}_i -
\tfrac12)`, where the mean of i is over the n_i others that it was compared with, the minimiser of the squared risk is
still the exact step, in the mean over draws: centring takes :math:`\tfrac{1}{K'}` of its own win rate off response i,
the win rates of those that it was compared with, which are low where its own is high, give :math:`\tfrac{1}{K'} \sum_{j
\sim i} \tfrac{1}{n_j}` of it back, and over the group as much is given as taken. With a count of each row's own
comparisons in the place of K' it is not.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.losses.groups import Group, group_mean


def implied_win_rates(
    policy_logps: Group,
    anchor_logps: Group,
    reference_logps: Group,
    win_rates: Group,
    *,
    beta: float,
    eta: float,
    weights: Group | None = None,
) -> Group:
    """Return the win rates p = g + V that the policy implies, equal to ``win_rates`` exactly at the WIND step.

    They are nominally in [0, 1], but unbounded; the intercept gives both sides of a prompt the same mean.
    """
    if beta < 0:
        raise ValueError(f"beta must be >= 0, got {beta}")
    if eta <= 0:
        raise ValueError(f"eta must be > 0, got {eta}")
    # Differences are taken first: the log-probs are hundreds of nats, their ratios a few.
    g = (policy_logps - anchor_logps) / eta + beta * (policy_logps - reference_logps)
    difference = win_rates - g
    intercept = difference.mean(-1) if weights is None else (difference * weights).sum(-1)
    return g + intercept.unsqueeze(-1)


def wind_squared(
    policy_logps: Group,
    anchor_logps: Group,
    reference_logps: Group,
    win_rates: Group,
    *,
    beta: float,
    eta: float,
    weights: Group | None = None,
) -> Float[Tensor, " batch"]:
    r"""Return the squared risk of WIND, >= 0, the one with a finite-sample guarantee in [1].

    .. math::
        L = \sum_i \mu_i \, (p_i - w_i)^2

    Source: the squared risk of [1], with an intercept for each prompt. It is exact at every group size (see the
    module).
    """
    implied = implied_win_rates(
        policy_logps, anchor_logps, reference_logps, win_rates, beta=beta, eta=eta, weights=weights
    )
    return group_mean((implied - win_rates) ** 2, weights)


def wind_kl(
    policy_logps: Group,
    anchor_logps: Group,
    reference_logps: Group,
    win_rates: Group,
    *,
    beta: float,
    eta: float,
    weights: Group | None = None,
    delta: float = 1e-2,
) -> Float[Tensor, " batch"]:
    r"""Return the KL (binary cross-entropy) risk of WIND; at the optimum it is the entropy of the win rates, not zero.

    .. math::
        L = -\sum_i \mu_i \, [w_i \log p_i + (1-w_i) \log(1-p_i)]

    Source: derived (see the module). Outside :math:`(\delta, 1-\delta)` each logarithm goes on as its tangent, so the
    loss is convex and once differentiable everywhere and a sample outside keeps a gradient of the right sign. ``delta``
    is in (0, ½): smaller is nearer the KL risk, with steeper gradients. Win rates are moved into [delta, 1 - delta]
    too: one beyond would pull p along its tangent without end.
    """
    implied = implied_win_rates(
        policy_logps, anchor_logps, reference_logps, win_rates, beta=beta, eta=eta, weights=weights
    )
    wins = win_rates.clamp(delta, 1 - delta)
    loss = -wins * _log(implied, delta) - (1 - wins) * _log(1 - implied, delta)
    return group_mean(loss, weights)


def wind_nce(
    policy_logps: Group,
    anchor_logps: Group,
    reference_logps: Group,
    win_rates: Group,
    *,
    beta: float,
    eta: float,
    weights: Group | None = None,
    delta: float = 1e-2,
) -> Float[Tensor, " batch"]:
    r"""Return the noise-contrastive risk of WIND, noise label Bernoulli(½); its minimum over p is at p = w.

    .. math::
        L = \sum_i \mu_i \, \Big[ w_i\, s(p_i) + (1-w_i)\, s(1-p_i) - \tfrac12 \log\tfrac{q}{p_i+q}
            - \tfrac12 \log\tfrac{q}{1-p_i+q} \Big], \quad s(p) = -\log\tfrac{p}{p+q},\ q = \tfrac12

    Source: derived, a consistent form (see the module). The loss goes on as its tangent where that of :func:`wind_kl`
    does.
    """
    implied = implied_win_rates(
        policy_logps, anchor_logps, reference_logps, win_rates, beta=beta, eta=eta, weights=weights
    )
    wins = win_rates.clamp(delta, 1 - delta)
    loss = _tangent(lambda p: _nce(p, wins), lambda p: _nce_slope(p, wins), implied, delta)
    return group_mean(loss, weights)


def _log(p: Group, delta: float) -> Group:
    """Return log p above delta, and its tangent at delta below."""
    inside = p.clamp(min=delta)
    return inside.log() + (p - inside) / inside.detach()


def _tangent(function: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], p: Group, delta: float) -> Group:
    """Return function(p) inside (delta, 1 - delta), and its tangents outside."""
    inside = p.clamp(min=delta, max=1 - delta)
    # At an interior point p - inside is 0; outside `inside` is constant, so only the tangent carries a gradient.
    return function(inside) + (p - inside) * slope(inside).detach()


def _nce(p: Group, wins: Group, q: float = 0.5) -> Group:
    data = -wins * torch.log(p / (p + q)) - (1 - wins) * torch.log((1 - p) / (1 - p + q))
    noise = -0.5 * torch.log(q / (p + q)) - 0.5 * torch.log(q / (1 - p + q))
    return data + noise


def _nce_slope(p: Group, wins: Group, q: float = 0.5) -> Group:
    data = -wins * q / (p * (p + q)) + (1 - wins) * q / ((1 - p) * (1 - p + q))
    return data + 0.5 / (p + q) - 0.5 / (1 - p + q)
