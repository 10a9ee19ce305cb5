r"""alpha-DPO is SimPO with a target margin that grows with how far the policy has already told a pair apart.

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
    r"""Return the logistic loss of the difference of mean log-probs, less a target that the standardised margin moves.

    .. math::
        L = -\log\sigma\big(\beta (d - \mathrm{sg}[\alpha M^*]) - \gamma\big), \quad M^* = \frac{M - \mu}{\sigma}, \quad
        M = \frac{u(y_w)}{|y_w|} - \frac{u(y_l)}{|y_l|}

    Source: the authors' code of [1]: logits :math:`d - \mathrm{sg}[\alpha M^* + \gamma/\beta]` times beta, d as for
    :func:`lit_align.losses.simpo.simpo`, sg stops the gradient. Its ``gamma_beta_ratio`` is gamma / beta here, and beta
    multiplies alpha, unlike in eq. (12) of [1]. ``beta`` and ``gamma`` are SimPO's. ``alpha`` >= 0 is the nats per
    token that the target grows by for one standard deviation of M: larger asks more of pairs that are told apart better
    than the average pair and less of the others, and 0 is SimPO. ``margin_mean`` (mu) and ``margin_std`` (sigma > 0),
    nats per token, are those of M over pairs. The loss is >= 0.
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
