"""Measures say how good a policy is: divergence, win rates, exploitability, sub-optimality. None is estimated."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from lit_align.games.checks import check_distribution, check_not_negative, check_preference, check_rewards
from lit_align.games.folding import Folding

Law = Float[Tensor, "*#batch Y"]
Preference = Float[Tensor, "*#batch Y Y"]
Value = Float[Tensor, "*#batch"]


def kl(p: Law, q: Law) -> Value:
    r"""Return the Kullback-Leibler divergence of two laws, nats >= 0.

    .. math::
        KL(p \| q) = \sum_y p(y) \log \frac{p(y)}{q(y)}

    It is inf where q is 0 and p is not, and 0 log 0 = 0. Relative accuracy holds for p near q too.
    """
    p, q = check_distribution("p", p), check_distribution("q", q)
    return _kl(p, q, q.log())


def win_rates(policy: Law, preference: Preference) -> Law:
    r"""Return each response's win rate against the policy, :math:`w(y) = \sum_z P(y \succ z)\, \pi(z)`, in [0, 1].

    Their mean under the policy is ½. ``policy`` may have leading dimensions that ``preference`` lacks, at little cost.
    """
    return unchecked_win_rates(check_distribution("policy", policy), check_preference("preference", preference))


def win_rate(policy: Law, opponent: Law, preference: Preference) -> Value:
    """Return P(policy beats opponent), a response drawn from each: in [0, 1] up to rounding, ½ against itself."""
    policy, opponent = check_distribution("policy", policy), check_distribution("opponent", opponent)
    return (policy * unchecked_win_rates(opponent, check_preference("preference", preference))).sum(-1)


def exploitability(policy: Law, preference: Preference, *, reference: Law | None = None, beta: float = 0.0) -> Value:
    r"""Return what a best response gains against the policy in the game regularised towards the reference.

    .. math::
        \max_q P(q \succ \pi) - \beta KL(q \| ref) + \beta KL(\pi \| ref) - \tfrac12
            = \beta\, KL(\pi \| br), \quad br \propto ref\, e^{w/\beta}

    and :math:`\max_y w(y) - \tfrac12` for beta = 0. Derived; the second form has no cancellation near an equilibrium.
    ``beta`` >= 0 is the KL strength, and ``reference`` is needed for beta > 0 alone.

    Returns:
        In win-rate units, >= 0; 0 exactly at an equilibrium, inf for beta > 0 where the policy leaves the support of
        the reference.
    """
    check_not_negative("beta", beta)
    policy = check_distribution("policy", policy)
    rates = unchecked_win_rates(policy, check_preference("preference", preference))
    if beta == 0:
        return (rates.amax(-1) - 0.5).clamp(min=0)
    if reference is None:
        raise ValueError(f"beta = {beta} pulls towards a reference: give reference, or beta = 0")
    log_response = (check_distribution("reference", reference).log() + rates / beta).log_softmax(-1)
    return beta * _kl(policy, log_response.exp(), log_response)


def sub_optimality(policy: Law, rewards: Real[Tensor, "*#batch Y"]) -> Value:
    """Return the best reward minus the policy's mean reward, >= 0."""
    policy, rewards = check_distribution("policy", policy), check_rewards("rewards", rewards)
    # Gaps are taken first: near the optimum the mean reward has no digits left to lose.
    return (policy * (rewards.amax(-1, keepdim=True) - rewards)).sum(-1)


def unchecked_win_rates(policy: Tensor, preference: Tensor) -> Tensor:
    """Return :func:`win_rates` of arguments that have been checked already."""
    folding = Folding.of(policy, preference)
    return folding.unfold(folding.rows(policy) @ folding.matrices(preference).mT)


def _kl(p: Tensor, q: Tensor, log_q: Tensor) -> Tensor:
    # The sum of p log(p/q) - p + q is the same for two laws, but its terms are >= 0, so none cancels another.
    gap = (q - p) / p
    near = p * (gap - torch.log1p(gap))
    far = torch.xlogy(p, p) - p * log_q - p + q
    # Where p is 0, p log q would be 0 times -inf.
    return torch.where(p > 0, torch.where(gap.abs() < 0.5, near, far), q).sum(-1).clamp(min=0)
