r"""Exploratory preference optimisation (XPO): DPO that is optimistic about what the reference does not say.

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
    r"""DPO on a pair of one response of the policy and one of the reference, plus optimism.

    .. math::
        L = -\log\sigma(\beta h) + \alpha \log\pi_\theta(\tilde y), \quad \tilde y \sim \pi_{ref}

    Source: Algorithm 1 of [1]. The second term lowers what the reference would say, whoever won, and so leaves mass for
    what it would not. Sums.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        explored_logps: log pi_theta of the pair's response that the reference drew, chosen or not, sequence sum, nats;
            carries the gradient.
        beta: KL strength, > 0, reward per nat; larger keeps the policy closer to the reference.
        alpha: Optimism, >= 0, per nat; 0 is DPO, larger explores more. Without bound below, it has to be small against
            beta.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, of either sign.

    Raises:
        ValueError: ``beta`` is not positive, ``alpha`` is negative, or a number ``preference`` is outside [0, 1].
    """
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    logps = policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    return dpo(*logps, beta=beta, preference=preference) + alpha * explored_logps
