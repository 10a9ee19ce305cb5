r"""Pair losses are functions of the margin of a pair of responses, and means over the pair's label.

The *log-ratio* of a response is :math:`u(y) = \log\pi_\theta(y|x) - \log\pi_{ref}(y|x)`, and the *margin* of a pair is
:math:`h = u(y_w) - u(y_l)`, y_w chosen and y_l rejected. Pair losses take, for each pair of a tensor of any one shape:

- ``policy_chosen_logps``, ``policy_rejected_logps``: log pi_theta of the response, a sum over its tokens, nats; they
  carry the gradient. ``reference_chosen_logps``, ``reference_rejected_logps``: the same under the policy that the
  log-ratio is taken to, pi_ref or an anchor. ``chosen_lengths``, ``rejected_lengths``: tokens of the response, >= 1,
  end of sequence included.
- ``beta`` > 0: KL strength, reward per nat, unless the loss says otherwise; larger keeps the policy closer to the
  reference. 0 <= ``eps`` < ½: probability that a label is wrong.
- ``preference``: the probability in [0, 1] that the chosen response beats the rejected one: a label (1, the default),
  or what a judge says. The loss is its mean over labels drawn with that probability, without their noise.

They return one loss for each pair. They raise a ValueError where a hyper-parameter, or a ``preference`` that is a
number, is out of its range; a tensor of preferences may lie on a device, and is not read.
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
    r"""Return the log-ratio of the chosen response minus that of the rejected one, h, in nats.

    .. math::
        h = [\log\pi_\theta(y_w) - \log\pi_{ref}(y_w)] - [\log\pi_\theta(y_l) - \log\pi_{ref}(y_l)]
    """
    # Each response is compared with itself first: log-probs are hundreds of nats, their ratios a few.
    return (policy_chosen_logps - reference_chosen_logps) - (policy_rejected_logps - reference_rejected_logps)


def expected_over_label(loss: Callable[[Pair], Pair], margins: Pair, preference: Pair | float) -> Pair:
    r"""Return :math:`p\,l(h) + (1-p)\,l(-h)`, the mean of a loss of the margin over a label of the given preference.

    ``loss`` is l, from margins in nats to losses, for a pair whose chosen response won.
    """
    return label_mean(loss(margins), loss(-margins), preference)


def label_mean(if_chosen: Pair, if_rejected: Pair, preference: Float[Tensor, "*batch"] | float) -> Pair:
    r"""Return :math:`p\,L(y_w, y_l) + (1-p)\,L(y_l, y_w)`, the mean over the label of a loss of both responses.

    ``if_chosen`` is the loss if the chosen response won, and ``if_rejected`` the loss with the two roles exchanged.
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
    r"""Return the log-ratio per token of the chosen response minus that of the rejected one, M, in nats per token.

    .. math::
        M = \frac{u(y_w)}{|y_w|} - \frac{u(y_l)}{|y_l|}
    """
    # The ratio is taken first: log-probs are hundreds of nats, their ratios a few.
    chosen = (policy_chosen_logps - reference_chosen_logps) / chosen_lengths
    return chosen - (policy_rejected_logps - reference_rejected_logps) / rejected_lengths
