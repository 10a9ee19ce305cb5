"""chi-PO is DPO under another link, whose chi-squared divergence makes it sceptical of what the data do not cover.

[1] A. Huang, W. Zhan, T. Xie, J. D. Lee, W. Sun, A. Krishnamurthy, D. J. Foster, "Correcting the Mythos of
    KL-Regularization: Direct Alignment without Overoptimization via Chi-Squared Preference Optimization", ICLR 2025,
    arXiv:2407.13399.

Some code calls it "xpo", a name that exploratory preference optimisation (arXiv:2405.21046) has.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Pair, expected_over_label

_LARGEST = 80.0  # its exponential is finite in float32


def chi_po(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    r_max: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the logistic loss of the clipped difference of linked density ratios.

    .. math::
        L = -\log\sigma\big(\mathrm{clip}_{[-2R, 2R]}(\beta [\phi(z_w) - \phi(z_l)])\big), \quad
        \phi(z) = z + \log z, \quad z = \pi_\theta / \pi_{ref}

    Source: the loss of [1]. Its regulariser, of strength beta, is :math:`D_{\chi^2} + D_{KL}` with :math:`D_{\chi^2} =
    \tfrac12 E_{ref}[(z-1)^2]`. Under Bradley-Terry preferences of a reward r whose differences the clip does not reach,
    the population minimiser is :math:`z = W_0(\exp((r - Z)/\beta))`, W_0 Lambert's function, Z the normaliser
    (derived), for every law of the pairs that connects all responses: large ratios grow linearly in the reward, not
    exponentially as with DPO. ``r_max`` > 0 is R, a bound on rewards: there is no gradient outside the clip, which
    ratios of whole responses leave early, and larger lets them go further. The loss is log 2 where the policy is the
    reference.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not r_max > 0:
        raise ValueError(f"r_max must be > 0, got {r_max}")
    chosen = _link(policy_chosen_logps - reference_chosen_logps)
    rejected = _link(policy_rejected_logps - reference_rejected_logps)
    difference = (beta * (chosen - rejected)).clamp(-2 * r_max, 2 * r_max)
    return expected_over_label(lambda x: softplus(-x), difference, preference)


def _link(logratios: Pair) -> Pair:
    return logratios.clamp(max=_LARGEST).exp() + logratios
