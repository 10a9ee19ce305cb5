"""Maximum preference optimisation (MPO) takes the expected preference itself as the reward, bounded at both ends.

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
    r"""Return minus the probability that the policy draws the chosen response, when it can draw one of the two only.

    .. math::
        L = -\sigma(\log\pi_\theta(y_w) - \log\pi_\theta(y_l))

    Source: the preference term of [1], remembered (see the module). The gradient in the difference d has weight
    :math:`\sigma(d)\sigma(-d)`: a pair that is far apart either way has none. [1] regularises by two more terms, the
    negative log-likelihoods of supervised and of pre-training data, which are left out here: there is no such data in a
    pair. The loss is in [-1, 0].
    """
    return expected_over_label(lambda d: -d.sigmoid(), policy_chosen_logps - policy_rejected_logps, preference)
