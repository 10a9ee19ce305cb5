r"""Self-play preference optimisation (SPPO) regresses a log-ratio on a win rate.

[1] Y. Wu, Z. Sun, H. Yuan, K. Ji, Y. Yang, Q. Gu, "Self-Play Preference Optimization for Language Model Alignment",
    ICLR 2025, arXiv:2405.00675.

One step is :math:`\pi_{t+1}(y) \propto \pi_t(y) \exp(w_t(y)/\beta)` with :math:`w_t(y) = P(y \succ \pi_t)`, which is

.. math::
    \log\frac{\pi_{t+1}(y)}{\pi_t(y)} = \frac{w_t(y) - c_t}{\beta}, \quad
    c_t = \beta \log \sum_y \pi_t(y) \exp(w_t(y)/\beta).

``beta`` > 0 is the inverse step size, win rate per nat: larger moves less far in one iteration. The ``offset``
:math:`c_t`, in units of win rate, depends on the prompt alone, and larger lowers all log-probs. With it the population
minimiser of the regression is the exact step. [1] replaces it by ½ in practice, the mean of the win rates: too small by
a term of order 1/beta. A policy is normalised and cannot absorb the difference, so the step is then biased, at third
order in 1/beta: on random policies of six arms by about 0.1 in total variation at beta = 0.1, by 2e-4 at beta = 1
(derived). Win rates are not centred: the estimate from a group is unbiased when it *excludes* the self-comparison.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.losses.groups import Group, group_mean
from lit_align.losses.margins import Pair


def sppo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    chosen_win_rates: Pair,
    rejected_win_rates: Pair,
    offset: Float[Tensor, "*#batch"] | float = 0.5,
) -> Pair:
    r"""Return half the squared errors of the two log-ratios of a pair to the anchor pi_t.

    .. math::
        L = \tfrac12 \Big(u(y_w) - \frac{w(y_w) - c}{\beta}\Big)^2
            + \tfrac12 \Big(u(y_l) - \frac{w(y_l) - c}{\beta}\Big)^2

    Source: the authors' code of [1], with the offset as an argument. Each response has its own target, so what it is
    paired with does not matter. The win rates are P(response beats pi_t) in [0, 1]; the offset is that of each pair, or
    of each prompt for its row of pairs. The loss is in nats squared, >= 0.
    """
    _check(beta)
    chosen_error = policy_chosen_logps - reference_chosen_logps - (chosen_win_rates - offset) / beta
    rejected_error = policy_rejected_logps - reference_rejected_logps - (rejected_win_rates - offset) / beta
    return 0.5 * (chosen_error**2 + rejected_error**2)


def sppo_regression(
    policy_logps: Group,
    anchor_logps: Group,
    win_rates: Group,
    *,
    beta: float,
    offset: Float[Tensor, " batch"] | float,
    weights: Group | None = None,
) -> Float[Tensor, " batch"]:
    r"""Return the mean squared error of the log-ratios of all responses to a prompt: the loss of the theory.

    .. math::
        L = \sum_i \mu_i \Big(u(y_i) - \frac{w_i - c}{\beta}\Big)^2

    Source: the objective of [1] before its two approximations (a constant offset; the best and the worst response
    only). With the true win rates and offset its population minimiser is the exact step for every full-support mu,
    where it is 0. It is in nats squared.
    """
    _check(beta)
    c = offset.unsqueeze(-1) if isinstance(offset, Tensor) else offset
    return group_mean((policy_logps - anchor_logps - (win_rates - c) / beta) ** 2, weights)


def sppo_offset(win_rates: Group, *, beta: float, weights: Group | None = None) -> Float[Tensor, " batch"]:
    r"""Return the offset that normalises the step, from responses drawn from pi_t.

    .. math::
        c = \beta \log \sum_i \mu_i \exp(w_i / \beta)

    Source: derived: the normaliser of the step, times beta. From samples it is consistent, with a bias of order 1/K
    (the logarithm of a mean). It lies between the mean of the win rates (beta -> infinity) and the largest (beta -> 0).
    """
    _check(beta)
    mu = torch.full_like(win_rates, 1 / win_rates.shape[-1]) if weights is None else weights
    return beta * torch.logsumexp(win_rates / beta + mu.log(), dim=-1)


def _check(beta: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
