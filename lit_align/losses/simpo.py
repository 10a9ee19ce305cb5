r"""Simple preference optimisation (SimPO): the mean log-prob itself is the reward, and there is no reference.

[1] Y. Meng, M. Xia, D. Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward", NeurIPS 2024,
    arXiv:2405.14734.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Lengths, Pair, expected_over_label


def simpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
    gamma: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Logistic loss of the difference of *mean* log-probs, with a target margin.

    .. math::
        L = -\log\sigma(\beta d - \gamma), \quad
        d = \frac{\log\pi_\theta(y_w)}{|y_w|} - \frac{\log\pi_\theta(y_l)}{|y_l|}

    Source: the loss of [1], without the optional SFT term of the authors' code, whose ``gamma_beta_ratio`` is gamma /
    beta here. The method has no reference, and so no reference log-probs are among the arguments: nothing but a small
    learning rate keeps the policy where it began.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        chosen_lengths: Tokens of the chosen response, >= 1, end of sequence included.
        rejected_lengths: The same of the rejected response.
        beta: Reward per nat and token, > 0; larger saturates at smaller differences.
        gamma: Target margin, >= 0, in units of reward; larger keeps pushing pairs that are already told apart.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, >= 0; log(1 + exp(gamma)) where the two mean log-probs are equal.

    Raises:
        ValueError: ``beta`` is not positive, ``gamma`` is negative, or a number ``preference`` is outside [0, 1].
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    difference = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    return expected_over_label(lambda d: softplus(gamma - beta * d), difference, preference)
