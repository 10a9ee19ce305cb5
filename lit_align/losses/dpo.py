r"""Direct preference optimisation (DPO) takes labels that are probabilities, and has two ways to meet noisy ones.

[1] R. Rafailov, A. Sharma, E. Mitchell, S. Ermon, C. D. Manning, C. Finn, "Direct Preference Optimization: Your
    Language Model is Secretly a Reward Model", NeurIPS 2023, arXiv:2305.18290.
[2] S. Ray Chowdhury, A. Kini, N. Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    ICML 2024, arXiv:2403.00409.

Under Bradley–Terry preferences of a reward r, the population minimiser is :math:`\pi_{ref}\exp(r/\beta)/Z` for every
law of the pairs that connects all responses. Iterative DPO takes its ratios to the anchor: pass the anchor's log-probs
as the reference's.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Pair, expected_over_label, margin


def dpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
    eps: float = 0.0,
) -> Pair:
    r"""Return the logistic loss of the margin; with ``eps``, the label-smoothed loss (conservative DPO).

    .. math::
        L = -(1-\epsilon) \log\sigma(\beta h) - \epsilon \log\sigma(-\beta h)

    Source: eq. (7) of [1]; label smoothing as in the authors' code. The minimum over h is at :math:`\beta h =
    \log((1-\epsilon)/\epsilon)`, which is infinite without label noise: larger ``eps`` keeps margins smaller. The loss
    is >= 0, and log 2 where the policy is the reference.
    """
    _check(beta, eps)
    h = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    return expected_over_label(lambda x: (1 - eps) * softplus(-beta * x) + eps * softplus(beta * x), h, preference)


def robust_dpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    eps: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return DPO on labels that were flipped with probability eps, unbiased for DPO on the true labels.

    .. math::
        L = \frac{(1-\epsilon)\, l(h) - \epsilon\, l(-h)}{1 - 2\epsilon}, \quad l(h) = -\log\sigma(\beta h)

    Source: [2]. The loss is convex, but with eps > 0 unbounded below as h grows: the price of being unbiased is that a
    pair seen with one label only pushes its margin without end. ``eps`` = 0 is DPO, larger amplifies margins and noise.
    ``preference`` is the probability that the observed, noisy label says chosen. The loss is log 2 where the policy is
    the reference.
    """
    _check(beta, eps)
    h = margin(policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps)
    kept, flipped = (1 - eps) / (1 - 2 * eps), eps / (1 - 2 * eps)
    return expected_over_label(lambda x: kept * softplus(-beta * x) - flipped * softplus(beta * x), h, preference)


def _check(beta: float, eps: float) -> None:
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not 0 <= eps < 0.5:
        raise ValueError(f"eps must be in [0, 0.5), got {eps}: at one half labels say nothing")
