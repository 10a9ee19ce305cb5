r"""The margin of a pair of responses, and the expectation of a loss over the pair's label.

Pair losses take sums of log-probs over response tokens, in nats, of any one shape: an element is a pair. The
*log-ratio* of a response is :math:`u(y) = \log\pi_\theta(y|x) - \log\pi_{ref}(y|x)`, the *margin* of a pair
:math:`h = u(y_{chosen}) - u(y_{rejected})`. A *preference* is the probability that the chosen response beats the
rejected one: a label (1, the default), or what a judge says; the loss is then its mean over labels drawn with that
probability, without their noise.
"""

from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

Pair = Float[Tensor, "*batch"]


def margin(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
) -> Pair:
    r"""The log-ratio of the chosen response minus that of the rejected one.

    .. math::
        h = [\log\pi_\theta(y_w) - \log\pi_{ref}(y_w)] - [\log\pi_\theta(y_l) - \log\pi_{ref}(y_l)]

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log of the policy the ratio is taken to, chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.

    Returns:
        h in nats, unbounded; 0 where the policy is the reference.
    """
    # Each response against itself first: log-probs are hundreds of nats, their ratios a few.
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


def expected_over_label(loss: Callable[[Pair], Pair], margins: Pair, preference: Pair | float) -> Pair:
    r"""The mean of a loss of the margin when the label is drawn with the given preference.

    .. math::
        p \, l(h) + (1-p) \, l(-h)

    Args:
        loss: l, from margins to losses, for a pair whose chosen response won.
        margins: h, nats.
        preference: p = P(chosen beats rejected) in [0, 1]; swapping the responses is h -> -h with p -> 1 - p.

    Returns:
        Expected loss of each pair.

    Raises:
        ValueError: ``preference`` is a number outside [0, 1] (a tensor is not read, it may lie on a device).
    """
    return label_mean(loss(margins), loss(-margins), preference)


def label_mean(if_chosen: Pair, if_rejected: Pair, preference: Float[Tensor, "*batch"] | float) -> Pair:
    r"""The loss a label would give, averaged over the label.

    .. math::
        p \, L(y_w, y_l) + (1-p) \, L(y_l, y_w)

    For a loss of the margin alone this is :func:`expected_over_label`.

    Args:
        if_chosen: Loss if the chosen response won, in the loss's own unit.
        if_rejected: Loss if the rejected one did: the roles of the two exchanged.
        preference: p = P(chosen beats rejected) in [0, 1].

    Returns:
        Expected loss of each pair, in the same unit.

    Raises:
        ValueError: ``preference`` is a number outside [0, 1] (a tensor is not read, it may lie on a device).
    """
    if isinstance(preference, float) and not 0 <= preference <= 1:
        raise ValueError(f"preference must be in [0, 1], got {preference}")
    return preference * if_chosen + (1 - preference) * if_rejected


Lengths = Int[Tensor, "*batch"]


def mean_margin(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
) -> Pair:
    r"""The log-ratio per token of the chosen response minus that of the rejected one.

    .. math::
        M = \frac{u(y_w)}{|y_w|} - \frac{u(y_l)}{|y_l|}

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log of the policy the ratio is taken to, chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        chosen_lengths: Tokens of the chosen response, >= 1, end of sequence included.
        rejected_lengths: The same of the rejected response.

    Returns:
        M in nats per token, unbounded; 0 where the policy is the reference.
    """
    # The ratio first: log-probs are hundreds of nats, their ratios a few.
    chosen = (policy_chosen_logps - reference_chosen_logps) / chosen_lengths
    return chosen - (policy_rejected_logps - reference_rejected_logps) / rejected_lengths
