"""Nash mirror descent by policy gradient (Nash-MD-PG) takes the KL divergence of whole responses.

[1] R. Munos, M. Valko, D. Calandriello, M. Gheshlaghi Azar, M. Rowland, et al., "Nash Learning from Human Feedback",
    ICML 2024, arXiv:2312.00886.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.groups import Group, group_mean


def nash_md(
    policy_logps: Group,
    reference_logps: Group,
    win_rates: Group,
    *,
    tau: float,
    weights: Group | None = None,
    baseline: Float[Tensor, " batch"] | float = 0.5,
) -> Float[Tensor, " batch"]:
    r"""Return a surrogate whose gradient is that of the regularised win rate against a fixed opponent.

    .. math::
        \nabla L = \nabla_\theta \big[ -P(\pi_\theta \succ \pi') + \tau\,\mathrm{KL}(\pi_\theta \| \pi_{ref}) \big],
        \quad L = -\sum_i \mu_i \, \mathrm{sg}[w_i - b - \tau u_i] \log\pi_\theta(y_i)

    Source: the policy gradient of [1] (Nash-MD-PG), for responses drawn from pi_theta itself. The opponent is whoever
    ``win_rates`` are against: [1] draws it from the geometric mixture of policy and reference. Derivation, with
    :math:`u = \log(\pi_\theta/\pi_{ref})`: :math:`\nabla \sum_y \pi (\tau u - w) = \sum_y \nabla\pi\,(\tau u - w) +
    \tau \sum_y \pi \nabla u`; the last sum is :math:`\sum_y \pi \nabla\log\pi = \nabla \sum_y \pi = 0`, and
    :math:`\nabla\pi = \pi\nabla\log\pi`. For the same reason a ``baseline`` b that does not depend on the sample, in
    units of win rate, changes the variance only: it is small where b is near the mean of w - tau u. u is the ratio of
    whole *responses*: products of log-ratio and log-prob token by token drop the cross terms and are another gradient.

    ``tau`` >= 0 is the KL strength, win rate per nat: larger keeps the policy closer to the reference.
    """
    if not tau >= 0:
        raise ValueError(f"tau must be >= 0, got {tau}")
    b = baseline.unsqueeze(-1) if isinstance(baseline, Tensor) else baseline
    advantages = win_rates - b - tau * (policy_logps - reference_logps)
    return -group_mean(advantages.detach() * policy_logps, None if weights is None else weights.detach())
