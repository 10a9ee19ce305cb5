"""Iterative Nash policy optimisation (INPO) takes a step of mirror descent in a game, from single comparisons.

[1] Y. Zhang, D. Yu, B. Peng, L. Song, Y. Tian, M. Huo, N. Jiang, H. Mi, D. Yu, "Iterative Nash Policy Optimization:
    Aligning LLMs with General Preferences via No-Regret Learning", ICLR 2025, arXiv:2407.00617.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.margins import Pair, expected_over_label, margin


def inpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    anchor_chosen_logps: Pair,
    anchor_rejected_logps: Pair,
    eta: float,
    tau: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the squared distance of a margin, taken to a mixture of reference and anchor, from 1/(2 eta).

    .. math::
        L = \left(h_t - \frac{1}{2\eta}\right)^2, \quad
        h_t = \frac{\tau}{\eta} h_{ref} + \left(1 - \frac{\tau}{\eta}\right) h_{anchor}

    Source: the loss of [1] in its own parametrisation; the two margins are taken to pi_ref and to the anchor pi_t,
    whose log-probs are ``anchor_chosen_logps`` and ``anchor_rejected_logps``. The population minimiser is the step

    .. math::
        \log\pi_{t+1} = \frac{\tau}{\eta}\log\pi_{ref} + \left(1-\frac{\tau}{\eta}\right)\log\pi_t
            + \frac{1}{\eta} P(y \succ \pi_t) + c

    *only when both responses are drawn from* :math:`\pi_t`: the second one is what makes the label a win rate. It is
    the step of WIND with beta = tau and step size 1/(eta - tau). ``eta`` > ``tau`` is the inverse step size, win rate
    per nat: larger moves *less* far in one iteration. ``tau`` >= 0 is the KL strength towards the reference, win rate
    per nat. The loss is in nats squared, >= 0, and 1/(2 eta)^2 where all three policies are one.
    """
    if not tau >= 0:
        raise ValueError(f"tau must be >= 0, got {tau}")
    if not eta > tau:
        raise ValueError(f"eta must be > tau, got eta {eta} and tau {tau}")
    to_reference = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    to_anchor = margin(policy_chosen_logps, policy_rejected_logps, anchor_chosen_logps, anchor_rejected_logps)
    h = tau / eta * to_reference + (1 - tau / eta) * to_anchor
    return expected_over_label(lambda x: (x - 1 / (2 * eta)) ** 2, h, preference)
