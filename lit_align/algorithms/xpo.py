"""Exploratory preference optimisation trains with :mod:`lit_align.losses.xpo`, which names [1]."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.xpo import xpo
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class XPO(AlignmentModule):
    """Trains DPO on pairs of a response of the policy and one of the reference, with optimism about the latter [1].

    Every response of the policy is paired with every one of the reference (``model.sampler.sources``). [1] fits all
    data seen so far in each iteration; here an iteration fits its own.

    Args:
        beta: KL strength, > 0; larger keeps the policy closer to the reference.
        alpha: Optimism, >= 0, per nat; 0 is DPO. Larger moves more mass away from what the reference says.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    roles: ClassVar[tuple[Slot, ...]] = ("policy", "reference")

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 0.1, alpha: float = 1e-5, **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if alpha < 0:
            raise ValueError(f"model.alpha must be >= 0, got {alpha}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.alpha = alpha

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch pairs"], Float[Tensor, "batch pairs"]]:
        mine, theirs = rollouts.slots("policy"), rollouts.slots("reference")
        slots = torch.cartesian_prod(torch.tensor(mine), torch.tensor(theirs)).to(rollouts.wins.device)
        first, second = slots.unbind(-1)
        compared = rollouts.compared[:, first, second]
        policy, reference = rollouts.policy_logps, rollouts.reference_logps
        values = xpo(
            policy[:, first],
            policy[:, second],
            reference[:, first],
            reference[:, second],
            explored_logps=policy[:, second],
            beta=self.beta,
            alpha=self.alpha,
            preference=torch.where(compared, rollouts.wins[:, first, second], 0.5),
        )
        share = torch.full_like(values.detach(), 1 / len(slots))
        if rollouts.weights is not None:
            share = rollouts.weights[:, first] * rollouts.weights[:, second]
        return values, share * compared
