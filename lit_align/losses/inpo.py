r"""Iterative Nash policy optimisation (INPO): a step of mirror descent in a regularised game, from single comparisons.

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
    r"""Squared distance of a margin, taken to a mixture of reference and anchor, from 1/(2 eta).

    .. math::
        L = \left(h_t - \frac{1}{2\eta}\right)^2, \quad
        h_t = \frac{\tau}{\eta} h_{ref} + \left(1 - \frac{\tau}{\eta}\right) h_{anchor}

    Source: the loss of [1] in its own parametrisation; :math:`h_{ref}` and :math:`h_{anchor}` are the margins of
    :mod:`lit_align.losses.margins` to the two policies. Its population minimiser is the step

    .. math::
        \log\pi_{t+1} = \frac{\tau}{\eta}\log\pi_{ref} + \left(1-\frac{\tau}{\eta}\right)\log\pi_t
            + \frac{1}{\eta} P(y \succ \pi_t) + c

    *only when both responses are drawn from* :math:`\pi_t`: the second one is what makes the label a win rate. It is
    the step of WIND with beta = tau and step size 1/(eta - tau).

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        anchor_chosen_logps: log pi_t of the chosen response, sequence sum, nats.
        anchor_rejected_logps: The same of the rejected response.
        eta: Inverse step size, > tau, win rate per nat; larger moves *less* far from the anchor in one iteration.
        tau: KL strength towards the reference, >= 0, win rate per nat; 0 leaves the reference out.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair in nats squared, >= 0; 1/(2 eta)^2 where all three policies are one.

    Raises:
        ValueError: Not 0 <= tau < eta, or a number ``preference`` is outside [0, 1].
    """
    if not tau >= 0:
        raise ValueError(f"tau must be >= 0, got {tau}")
    if not eta > tau:
        raise ValueError(f"eta must be > tau, got eta {eta} and tau {tau}")
    to_reference = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    to_anchor = margin(policy_chosen_logps, policy_rejected_logps, anchor_chosen_logps, anchor_rejected_logps)
    h = tau / eta * to_reference + (1 - tau / eta) * to_anchor
    return expected_over_label(lambda x: (x - 1 / (2 * eta)) ** 2, h, preference)
