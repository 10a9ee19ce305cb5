r"""J-BOND distils the best of 2 of a slowly moving anchor, online, from one policy and two anchor responses.

[1] P. G. Sessa, R. Dadashi, L. Hussenot, J. Ferret, N. Vieillard, et al., "BOND: Aligning LLMs with Best-of-N
    Distillation", ICLR 2025, arXiv:2407.14622 (Algorithm 2).

A group is three responses: slot 0 is drawn from the policy, slots 1 and 2 from the anchor, and ``wins[b, i, j]`` is
P(response i beats response j). The expected gradient is that of

.. math::
    (1-\beta)\,\mathrm{KL}(\pi^{(2)}_{anchor} \| \pi_\theta) + \beta\,\mathrm{KL}(\pi_\theta \| q)
        + \gamma\,\mathrm{KL}(\pi_\theta \| \pi_{anchor}), \quad
    q \propto \pi_{anchor} \exp\big(-\log 16 \, P(\text{anchor} \succ y)^2\big),

where q stands in for the best-of-2 law: its log-ratio agrees with log F at F = ½. ``beta`` is in [0, 1], and larger
imitates less; ``gamma`` >= 0, and larger slows the policy down. Log-probs are sequence sums in nats; one of these two
out of its range raises a ValueError.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Batch = Float[Tensor, " batch"]
Triple = Float[Tensor, "batch 3"]


def jbond_penalty(wins_first: Batch, wins_second: Batch) -> Batch:
    r"""Return what a policy sample loses for being beaten by both anchor samples, in [-log 16, 0] nats.

    .. math::
        -\log 16 \; (1 - P(y \succ y'_1)) (1 - P(y \succ y'_2))

    Source: the reward of Algorithm 2 of [1], -log 16 where r(y) < min(r(y'_1), r(y'_2)) and else 0, which this is for
    wins of 0 and 1; for probabilities it is the mean over two independent labels (derived). It differs from [1] where
    rewards tie, which are wins of ½ here: a tie with both anchor samples costs log(16)/4, and a tie with one and a loss
    to the other log(16)/2, where [1] has 0. The arguments are P(policy sample beats the first, the second anchor
    sample).
    """
    return -math.log(16) * (1 - wins_first) * (1 - wins_second)


def jbond_advantages(
    policy_logps: Triple, anchor_logps: Triple, wins: Float[Tensor, "batch 3 3"], *, beta: float, gamma: float
) -> Batch:
    r"""Return the advantage A of the policy sample before a baseline, in nats, without gradient.

    .. math::
        A = \beta R - \gamma u, \quad R = \text{penalty} - u, \quad u = \log\pi_\theta(y) - \log\pi_{anchor}(y)

    Source: G_BW and G_Reg of Algorithm 2 of [1], in one. Both pull the policy *towards* the anchor: a response that the
    policy favours more than the anchor does has a smaller advantage.
    """
    _check_beta(beta)
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    logratio = (policy_logps[:, 0] - anchor_logps[:, 0]).detach()
    return beta * (jbond_penalty(wins[:, 0, 1], wins[:, 0, 2]) - logratio) - gamma * logratio


def leave_one_out(values: Batch, counts: Bool[Tensor, " batch"]) -> Batch:
    """Return the mean over the *other* prompts that count: a baseline that does not depend on the prompt's own sample.

    It is in the unit of the values, and 0 where no other prompt counts; the values of prompts that do not are not read.
    """
    known = torch.where(counts, values, torch.zeros_like(values))
    return (known.sum() - known) / (counts.sum() - counts.long()).clamp(min=1)


def jbond(policy_logps: Triple, wins: Float[Tensor, "batch 3 3"], advantages: Batch, *, beta: float) -> Batch:
    r"""Return a surrogate whose expected gradient is that of the module's objective; its value means nothing.

    .. math::
        L = -(1-\beta) \big[ P(y'_1 \succ y'_2) \log\pi_\theta(y'_1) + P(y'_2 \succ y'_1) \log\pi_\theta(y'_2) \big]
            - \mathrm{sg}[A] \log\pi_\theta(y)

    Source: Algorithm 2 of [1]; the better of the two anchor samples is imitated, in the mean over the label.
    ``advantages`` are :func:`jbond_advantages` of the same beta, less a baseline such as :func:`leave_one_out`.
    """
    _check_beta(beta)
    better = torch.stack([wins[:, 1, 2], wins[:, 2, 1]], dim=-1)
    forward = -(better * policy_logps[:, 1:]).sum(-1)
    return (1 - beta) * forward - advantages.detach() * policy_logps[:, 0]


def _check_beta(beta: float) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
