r"""MinorDPO: a rejected response is pushed down only while the policy finds it likelier than the reference does.

[1] S. Xie et al., "Minor DPO reject penalty to increase training robustness", 2024,
    arXiv:2408.09834.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import relu, softplus

from lit_align.losses.margins import Pair, label_mean


def minor_dpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Logistic loss of the chosen log-ratio, less the rejected one where that is positive.

    .. math::
        L = -\log\sigma\big(\beta\, [u(y_w) - \max(0, u(y_l))]\big), \quad u = \log\pi_\theta - \log\pi_{ref}

    Source: [1], in the form of third-party code. At u(y_l) <= 0 no gradient reaches the rejected response: where the
    policy is the reference, only the chosen one moves.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref (or of the anchor) of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        beta: KL strength, > 0, reward per nat; larger keeps the policy closer to the reference.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, >= 0, at least that of DPO; log 2 where the policy is the reference.

    Raises:
        ValueError: ``beta`` is not positive, or a number ``preference`` is outside [0, 1].
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps

    def loss(winner: Pair, loser: Pair) -> Pair:
        return softplus(-beta * (winner - relu(loser)))

    return label_mean(loss(chosen, rejected), loss(rejected, chosen), preference)
