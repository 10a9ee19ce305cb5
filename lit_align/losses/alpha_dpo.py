r"""alpha-DPO: SimPO whose target margin grows with how far the policy has already told a pair apart.

[1] J. Wu et al., "alpha-DPO: Adaptive Reward Margin is What Direct Preference Optimization Needs", 2024,
    arXiv:2410.10148.

The margin of the log-ratios comes from an implicit reference :math:`\hat\pi_{ref} \propto U (\pi_\theta /
\pi_{ref})^\alpha`, through which no gradient flows.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Lengths, Pair, label_mean, mean_margin


def alpha_dpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
    gamma: float,
    alpha: float,
    margin_mean: float,
    margin_std: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Logistic loss of the difference of mean log-probs, less a target that the standardised margin moves.

    .. math::
        L = -\log\sigma\big(\beta (d - \mathrm{sg}[\alpha M^*]) - \gamma\big), \quad M^* = \frac{M - \mu}{\sigma}, \quad
        M = \frac{u(y_w)}{|y_w|} - \frac{u(y_l)}{|y_l|}

    Source: the authors' code of [1]: logits :math:`d - \mathrm{sg}[\alpha M^* + \gamma/\beta]` times beta, d as for
    :func:`lit_align.losses.simpo.simpo` and M a difference of *mean* log-ratios without beta. Its
    ``gamma_beta_ratio`` is gamma / beta here, and beta multiplies alpha, unlike in eq. (12) of [1], where alpha is
    beta alpha of this function. sg stops the gradient.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        chosen_lengths: Tokens of the chosen response, >= 1, end of sequence included.
        rejected_lengths: The same of the rejected response.
        beta: Reward per nat and token, > 0; larger saturates at smaller differences.
        gamma: Target margin, >= 0, in units of reward.
        alpha: Nats per token that the target grows by for one standard deviation of M, >= 0; 0 is SimPO. Larger asks
            more of pairs that are told apart better than the average pair, and less of the others.
        margin_mean: mu, nats per token: the mean of M over pairs.
        margin_std: sigma, > 0, nats per token: the standard deviation of M over pairs.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, >= 0.

    Raises:
        ValueError: An argument is out of its range.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not gamma >= 0:
        raise ValueError(f"gamma must be >= 0, got {gamma}")
    if not alpha >= 0:
        raise ValueError(f"alpha must be >= 0, got {alpha}")
    if not margin_std > 0:
        raise ValueError(f"margin_std must be > 0, got {margin_std}")
    difference = policy_chosen_logps / chosen_lengths - policy_rejected_logps / rejected_lengths
    means = mean_margin(
        policy_chosen_logps,
        policy_rejected_logps,
        reference_chosen_logps,
        reference_rejected_logps,
        chosen_lengths=chosen_lengths,
        rejected_lengths=rejected_lengths,
    ).detach()

    def loss(d: Pair, m: Pair) -> Pair:
        return softplus(gamma + beta * alpha * (m - margin_mean) / margin_std - beta * d)

    return label_mean(loss(difference, means), loss(-difference, -means), preference)
