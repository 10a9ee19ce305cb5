"""MinorDPO pushes a rejected response down only while the policy finds it likelier than the reference does.

[1] S. Xie et al., "Minor DPO reject penalty to increase training robustness", 2024, arXiv:2408.09834.
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
    r"""Return the logistic loss of the chosen log-ratio, less the rejected one where that is positive.

    .. math::
        L = -\log\sigma\big(\beta\, [u(y_w) - \max(0, u(y_l))]\big), \quad u = \log\pi_\theta - \log\pi_{ref}

    Source: [1], in the form of third-party code. At u(y_l) <= 0 no gradient reaches the rejected response: where the
    policy is the reference, only the chosen one moves. The loss is at least that of DPO, and log 2 where the policy is
    the reference.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    chosen = policy_chosen_logps - reference_chosen_logps
    rejected = policy_rejected_logps - reference_rejected_logps

    def loss(winner: Pair, loser: Pair) -> Pair:
        return softplus(-beta * (winner - relu(loser)))

    return label_mean(loss(chosen, rejected), loss(rejected, chosen), preference)
