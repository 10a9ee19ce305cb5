"""Exploratory preference optimisation (XPO) is DPO that is optimistic about what the reference does not say.

[1] T. Xie, D. J. Foster, A. Krishnamurthy, C. Rosset, A. Awadallah, A. Rakhlin, "Exploratory Preference Optimization:
    Harnessing Implicit Q*-Approximation for Sample-Efficient RLHF", ICLR 2025, arXiv:2405.21046.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.dpo import dpo
from lit_align.losses.margins import Pair


def xpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    explored_logps: Pair,
    beta: float,
    alpha: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return DPO on a pair of one response of the policy and one of the reference, plus optimism.

    .. math::
        L = -\log\sigma(\beta h) + \alpha \log\pi_\theta(\tilde y), \quad \tilde y \sim \pi_{ref}

    Source: Algorithm 1 of [1]. The second term lowers what the reference would say, whoever won, and so leaves mass for
    what it would not. ``explored_logps`` are log pi_theta of the pair's response that the reference drew, chosen or
    not, a sum in nats with its gradient. ``alpha`` >= 0 is the optimism per nat: 0 is DPO, larger explores more; it is
    without bound below, and has to be small against beta. The loss is of either sign.
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    logps = policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    return dpo(*logps, beta=beta, preference=preference) + alpha * explored_logps
