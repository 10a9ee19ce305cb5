"""Identity preference optimisation (IPO) has the squared loss of a margin with a finite target.

[1] M. G. Azar, M. Rowland, B. Piot, D. Guo, D. Calandriello, M. Valko, R. Munos, "A General Theoretical Paradigm to
    Understand Learning from Human Preferences", AISTATS 2024, arXiv:2310.12036.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.margins import Lengths, Pair, expected_over_label, margin, mean_margin


def ipo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    tau: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the squared distance of the margin, a token *sum*, from 1/(2 tau).

    .. math::
        L = \left(h - \frac{1}{2\tau}\right)^2

    Source: the sampled loss of [1]; sums of token log-probs, as in [1], where some libraries divide by the length. When
    both responses are drawn from mu and labelled by the preference P, the population minimiser is
    :math:`\pi_{ref}\exp(P(y \succ \mu)/\tau)/Z`, that of :math:`P(\pi \succ \mu) - \tau\,\mathrm{KL}(\pi\|\pi_{ref})`;
    the law of the pairs matters, unlike for DPO. ``tau`` > 0 is the KL strength, win rate per nat: larger keeps the
    policy closer to the reference. The loss is in nats squared, and 1/(2 tau)^2 where the policy is the reference.
    """
    h = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return _to_target(h, tau, preference)


def ipo_mean(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    tau: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the squared distance of the margin per token, a difference of token *means*, from 1/(2 tau).

    .. math::
        L = \left(M - \frac{1}{2\tau}\right)^2, \quad M = \frac{u(y_w)}{|y_w|} - \frac{u(y_l)}{|y_l|}

    Source: the reading of TRL, whose authors report to have confirmed it with those of [1]. Between responses of one
    length n it is the loss of sums with tau / n in the place of tau, divided by n^2; else its minimiser has no closed
    form. ``tau`` > 0 is in tokens per nat here, and the loss in (nats per token) squared.
    """
    h = mean_margin(
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    )
    return _to_target(h, tau, preference)


def _to_target(margins: Pair, tau: float, preference: Float[Tensor, "*batch"] | float) -> Pair:
    if not tau > 0:
        raise ValueError(f"tau must be > 0, got {tau}")
    return expected_over_label(lambda x: (x - 1 / (2 * tau)) ** 2, margins, preference)
