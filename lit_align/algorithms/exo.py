"""Efficient exact optimisation trains with :mod:`lit_align.losses.exo`, which names [1]: on groups, and on pairs."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.exo import exo, exo_pairwise
from lit_align.losses.groups import group_shares
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class EXO(AlignmentModule):
    r"""Pulls the law of implicit rewards within a group to that of rewards, by the reverse KL divergence [1].

    An exact iteration ends at :math:`\pi_{ref} \exp(r / (\beta_\pi \beta_r)) / Z`, whoever drew the responses. [1]
    draws them from the reference, once: that is ``model.sampler.sources: [reference, ...]``; by default the policy
    draws them.

    Args:
        beta_policy: Power of the density ratio, > 0; larger moves less far.
        beta_reward: Temperature of the rewards, > 0, in their unit; larger moves less far.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference", "rewards"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta_policy: float = 0.1,
        beta_reward: float = 0.1,
        **kwargs: Any,
    ) -> None:
        for name, value in (("beta_policy", beta_policy), ("beta_reward", beta_reward)):
            if value <= 0:
                raise ValueError(f"model.{name} must be > 0, got {value}")
        super().__init__(policy, judge, **kwargs)
        self.beta_policy = beta_policy
        self.beta_reward = beta_reward

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        assert rollouts.rewards is not None  # `needs` names them
        logps, rewarded = rollouts.policy_logps, rollouts.rewarded
        values = exo(
            logps,
            rollouts.reference_logps,
            rollouts.rewards.nan_to_num(0.0).to(logps.dtype),
            beta_policy=self.beta_policy,
            beta_reward=self.beta_reward,
            weights=group_shares(rewarded, rollouts.weights, dtype=logps.dtype),
        )
        return values, (rewarded.sum(-1) > 1).to(values.dtype)


class EXOPairwise(PairwiseModule):
    """Pulls the implied preference of a pair to its smoothed label, by the reverse KL divergence [1].

    Args:
        beta: Power of the density ratio, > 0; larger keeps the policy closer to the reference. [1] uses 0.1 and 0.5.
        eps: Share of labels taken to be wrong, in (0, ½): the margin that is asked for is log((1 - eps) / eps) / beta.
        pairing: ``random`` pairs of independent responses by default, as in the data sets of [1].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.1,
        eps: float = 4.5e-5,
        pairing: Pairing = "random",
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if not 0 < eps < 0.5:
            raise ValueError(f"model.eps must lie in (0, 0.5), got {eps}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.beta = beta
        self.eps = eps

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return exo_pairwise(*logps, beta=self.beta, eps=self.eps, preference=pairs.preference)
