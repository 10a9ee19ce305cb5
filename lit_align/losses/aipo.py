r"""Agreement-aware iterative preference optimisation (AIPO): DPO with a larger reference margin, and an NLL term.

[1] Y. Shen, X. Wang, Y. Niu, Y. Zhou, L. Tang, L. Zhang, F. Chen, L. Wen, "AIPO: Improving Training Objective for
    Iterative Preference Optimization", 2024, arXiv:2409.08845.

The authors call the loss of the margin alone "alpha-DPO", which is another method here (arXiv:2410.10148).
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Lengths, Pair, expected_over_label, label_mean, margin


def aipo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
    alpha: float,
    nll_weight: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Logistic loss of the margin less alpha times that of the reference itself, plus the NLL of the chosen response.

    .. math::
        L = -\log\sigma\big(\beta (s_\theta - (1+\alpha) s_{ref})\big) - \lambda \frac{\log\pi_\theta(y_w)}{|y_w|},
        \quad s_\pi = \log\pi(y_w) - \log\pi(y_l)

    Source: eqs. (6), (10), (11) of [1]. Sums in the margin, the mean in the NLL. Where the reference agrees with the
    label (s_ref > 0) the loss asks for more, where it disagrees for less: under Bradley-Terry preferences of a reward r
    and with lambda = 0 the population minimiser is :math:`\pi_{ref}^{1+\alpha} \exp(r/\beta) / Z` (derived).

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log of the policy the iteration starts from, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        chosen_lengths: Tokens of the chosen response, >= 1, end of sequence included.
        rejected_lengths: The same of the rejected response.
        beta: KL strength, > 0, reward per nat; larger keeps the policy closer to the reference.
        alpha: Share of the reference's margin that is asked for on top, >= 0; 0 is DPO.
        nll_weight: lambda, >= 0, per nat and token; larger keeps the chosen response likely.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label, whose winner the NLL is of.

    Returns:
        Loss of each pair, >= 0.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    if not nll_weight >= 0:
        raise ValueError(f"nll_weight must be >= 0, got {nll_weight}")
    h = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    asked = h - alpha * (reference_chosen_logps - reference_rejected_logps)
    told_apart = expected_over_label(lambda x: softplus(-beta * x), asked, preference)
    nll = label_mean(-policy_chosen_logps / chosen_lengths, -policy_rejected_logps / rejected_lengths, preference)
    return told_apart + nll_weight * nll
