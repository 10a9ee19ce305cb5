"""How good a policy is: divergence, win rates, exploitability, sub-optimality. Nothing here is estimated."""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from lit_align.games.checks import check_distribution, check_not_negative, check_preference, check_rewards
from lit_align.games.folding import Folding

Law = Float[Tensor, "*#batch Y"]
Preference = Float[Tensor, "*#batch Y Y"]
Value = Float[Tensor, "*#batch"]


def kl(p: Law, q: Law) -> Value:
    r"""Kullback-Leibler divergence.

    .. math::
        KL(p \| q) = \sum_y p(y) \log \frac{p(y)}{q(y)}

    Args:
        p: Probabilities.
        q: Probabilities.

    Returns:
        Nats, >= 0, with 0 log 0 = 0; inf where q is 0 and p is not. Relative accuracy holds for p near q too.

    Raises:
        ValueError: a row is not a distribution.
    """
    p, q = check_distribution("p", p), check_distribution("q", q)
    return _kl(p, q, q.log())


def win_rates(policy: Law, preference: Preference) -> Law:
    r"""Win rate of each response against the policy, :math:`w(y) = \sum_z P(y \succ z)\, \pi(z)`.

    Args:
        policy: Probabilities; may have leading dimensions that ``preference`` lacks, at little cost.
        preference: [..., y, z] = P(y beats z).

    Returns:
        In [0, 1]; their mean under the policy is ½.

    Raises:
        ValueError: ``policy`` or ``preference`` is not one.
    """
    return unchecked_win_rates(check_distribution("policy", policy), check_preference("preference", preference))


def win_rate(policy: Law, opponent: Law, preference: Preference) -> Value:
    r"""P(policy beats opponent), a response drawn from each.

    Args:
        policy: Probabilities.
        opponent: Probabilities.
        preference: [..., y, z] = P(y beats z).

    Returns:
        In [0, 1], up to rounding; ½ for a policy against itself.

    Raises:
        ValueError: an argument is not what it should be.
    """
    policy, opponent = check_distribution("policy", policy), check_distribution("opponent", opponent)
    return (policy * unchecked_win_rates(opponent, check_preference("preference", preference))).sum(-1)


def exploitability(policy: Law, preference: Preference, *, reference: Law | None = None, beta: float = 0.0) -> Value:
    r"""What a best response gains against the policy in the game regularised towards the reference.

    .. math::
        \max_q P(q \succ \pi) - \beta KL(q \| ref) + \beta KL(\pi \| ref) - \tfrac12
            = \beta\, KL(\pi \| br), \quad br \propto ref\, e^{w/\beta}

    and :math:`\max_y w(y) - \tfrac12` for beta = 0. Derived; the second form has no cancellation near an equilibrium.

    Args:
        policy: Probabilities.
        preference: [..., y, z] = P(y beats z).
        reference: pi_ref; needed for beta > 0, without effect for beta = 0.
        beta: KL strength, >= 0.

    Returns:
        In win-rate units, >= 0; 0 exactly at an equilibrium, inf for beta > 0 where the policy leaves the support of
        the reference.

    Raises:
        ValueError: an argument is not what it should be, or beta > 0 comes without a reference.
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
    r"""The best reward minus the policy's mean reward.

    Args:
        policy: Probabilities.
        rewards: Reward of each response.

    Returns:
        In the unit of the rewards, >= 0.

    Raises:
        ValueError: ``policy`` is not a distribution or a reward is not finite.
    """
    policy, rewards = check_distribution("policy", policy), check_rewards("rewards", rewards)
    # Gaps first: near the optimum the mean reward has no digits left to lose.
    return (policy * (rewards.amax(-1, keepdim=True) - rewards)).sum(-1)


def unchecked_win_rates(policy: Tensor, preference: Tensor) -> Tensor:
    """As :func:`win_rates`, of arguments that have been checked already."""
    folding = Folding.of(policy, preference)
    return folding.unfold(folding.rows(policy) @ folding.matrices(preference).mT)


def _kl(p: Tensor, q: Tensor, log_q: Tensor) -> Tensor:
    # Sum p log(p/q) - p + q: the same for two laws, but every term is >= 0, so nothing cancels between terms.
    gap = (q - p) / p
    near = p * (gap - torch.log1p(gap))
    far = torch.xlogy(p, p) - p * log_q - p + q
    # Where p is 0, p log q would be 0 times -inf.
    return torch.where(p > 0, torch.where(gap.abs() < 0.5, near, far), q).sum(-1).clamp(min=0)
