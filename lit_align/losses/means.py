"""Margins of mean log-probs: what the losses that divide by the length of a response share."""

from jaxtyping import Int
from torch import Tensor

from lit_align.losses.margins import Pair

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
