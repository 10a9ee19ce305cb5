r"""Maximum preference optimisation (MPO): the expected preference itself as the reward, bounded at both ends.

[1] Z. Jiang, X. Huang, C. Wei, "Preference as Reward, Maximum Preference Optimization with Importance Sampling", 2023,
    arXiv:2312.16430.

The form here is of low confidence: the text of [1] was not at hand, and this is what its idea was remembered to be.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.margins import Pair, expected_over_label


def mpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    *,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Minus the probability that the policy draws the chosen response, when it can draw one of the two only.

    .. math::
        L = -\sigma(\log\pi_\theta(y_w) - \log\pi_\theta(y_l))

    Source: the preference term of [1], remembered (see the module). The gradient in the difference d has weight
    :math:`\sigma(d)\sigma(-d)`: a pair that is far apart either way has none. [1] regularises by two more terms, the
    negative log-likelihoods of supervised and of pre-training data, which are left out here: there is no such data in a
    pair. The term has no reference, and so no reference log-probs are among the arguments.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, in [-1, 0].

    Raises:
        ValueError: A number ``preference`` is outside [0, 1].
    """
    return expected_over_label(lambda d: -d.sigmoid(), policy_chosen_logps - policy_rejected_logps, preference)
