"""Agreement-aware iterative preference optimisation (AIPO) is DPO with a larger reference margin, and an NLL term.

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
    r"""Return the logistic loss of the margin less alpha times the reference's, plus the NLL of the chosen response.

    .. math::
        L = -\log\sigma\big(\beta (s_\theta - (1+\alpha) s_{ref})\big) - \lambda \frac{\log\pi_\theta(y_w)}{|y_w|},
        \quad s_\pi = \log\pi(y_w) - \log\pi(y_l)

    Source: eqs. (6), (10), (11) of [1]; pi_ref is the policy that the iteration starts from. ``alpha`` >= 0 is the
    share of the reference's margin that is asked for on top (0 is DPO), ``nll_weight`` >= 0 is lambda, per nat and
    token. Where the reference agrees with the label (s_ref > 0) the loss asks for more, where it disagrees for less:
    under Bradley-Terry preferences of a reward r and with lambda = 0 the population minimiser is
    :math:`\pi_{ref}^{1+\alpha} \exp(r/\beta) / Z` (derived). The loss is >= 0.
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
