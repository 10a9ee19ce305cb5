"""Simple preference optimisation (SimPO) takes the mean log-prob itself as the reward, and has no reference.

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
    r"""Return the logistic loss of the difference of *mean* log-probs, with a target margin.

    .. math::
        L = -\log\sigma(\beta d - \gamma), \quad
        d = \frac{\log\pi_\theta(y_w)}{|y_w|} - \frac{\log\pi_\theta(y_l)}{|y_l|}

    Source: the loss of [1], without the optional SFT term of the authors' code, whose ``gamma_beta_ratio`` is gamma /
    beta here. There is no reference: nothing but a small learning rate keeps the policy where it began. ``beta`` > 0 is
    the reward per nat and token, and larger saturates at smaller differences; ``gamma`` >= 0 is the target margin in
    units of reward, and larger keeps pushing pairs that are already told apart. The loss is >= 0.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    difference = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    return expected_over_label(lambda d: softplus(gamma - beta * d), difference, preference)
