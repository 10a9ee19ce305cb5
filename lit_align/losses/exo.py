"""Efficient exact optimisation (EXO) lowers the *reverse* KL divergence from the policy within a group to its target.

[1] H. Ji, C. Lu, Y. Niu, P. Ke, H. Wang, J. Zhu, J. Tang, M. Huang, "Towards Efficient Exact Optimization of Language
    Model Alignment", ICML 2024, arXiv:2402.00856.

DPO is the forward divergence of the same two laws; the reverse one seeks a mode where a policy cannot have them all.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from lit_align.losses.groups import Group
from lit_align.losses.margins import Pair, expected_over_label, margin


def exo(
    policy_logps: Group,
    reference_logps: Group,
    rewards: Group,
    *,
    beta_policy: float,
    beta_reward: float,
    weights: Group | None = None,
) -> Float[Tensor, " batch"]:
    r"""Return the reverse KL divergence from the law of implicit rewards to that of rewards, within a group.

    .. math::
        L = \mathrm{KL}(q \| p), \quad q_i \propto \mu_i \Big(\frac{\pi_\theta(y_i)}{\pi_{ref}(y_i)}\Big)^{\beta_\pi},
        \quad p_i \propto \mu_i \exp(r_i / \beta_r)

    Source: EXO with rewards of [1], mu uniform over samples; the weights are ours. For every mu of full support the
    minimiser is :math:`\pi_{ref} \exp(r / (\beta_\pi \beta_r)) / Z` (derived). ``beta_policy`` > 0 is the power of the
    density ratio and ``beta_reward`` > 0 the temperature of the rewards, in their unit: larger values of either move
    the policy less far. A target law over the group is given by its logarithm as ``rewards`` with ``beta_reward`` 1.
    The loss is in nats, >= 0, and 0 where the log-ratios are the rewards over both betas, up to a constant.
    """
    if not beta_policy > 0:
        raise ValueError(f"beta_policy must be > 0, got {beta_policy}")
    if not beta_reward > 0:
        raise ValueError(f"beta_reward must be > 0, got {beta_reward}")
    mu = torch.full_like(policy_logps, 1 / policy_logps.shape[-1]) if weights is None else weights
    implicit, wanted = beta_policy * (policy_logps - reference_logps), rewards / beta_reward
    # Densities are taken relative to mu: a response of probability 0 has weight 0 and a finite logarithm.
    relative = implicit - _log_mean_exp(implicit, mu), wanted - _log_mean_exp(wanted, mu)
    law = (implicit + mu.log()).softmax(-1)
    return (law * (relative[0] - relative[1])).sum(-1)


def exo_pairwise(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    eps: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the reverse KL divergence from the implied preference of a pair to its smoothed label.

    .. math::
        L = \sigma(\beta h) \log\frac{\sigma(\beta h)}{1 - \epsilon} + \sigma(-\beta h) \log\frac{\sigma(-\beta h)}
        {\epsilon}

    Source: EXO with preferences of [1], K = 2; ``beta`` is the power of the density ratio. The minimum is 0, at
    :math:`\beta h = \log((1-\epsilon)/\epsilon)`, as for label-smoothed DPO; with a preference p it is at :math:`\beta
    h = (2p-1) \log((1-\epsilon)/\epsilon)` (derived). The gradient vanishes at both ends. ``eps`` is in (0, ½): smaller
    asks for larger margins, and the authors' code has exp(-10). The loss is in nats, >= 0.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not 0 < eps < 0.5:
        raise ValueError(f"eps must be in (0, 0.5), got {eps}")
    h = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)

    def loss(x: Pair) -> Pair:
        wins = (beta * x).sigmoid() * (logsigmoid(beta * x) - math.log(1 - eps))
        return wins + (-beta * x).sigmoid() * (logsigmoid(-beta * x) - math.log(eps))

    return expected_over_label(loss, h, preference)


def _log_mean_exp(values: Group, weights: Group) -> Float[Tensor, "batch 1"]:
    return (values + weights.log()).logsumexp(-1, keepdim=True)
