"""Exploratory preference optimisation.

[1] T. Xie et al., "Exploratory Preference Optimization: Harnessing Implicit Q*-Approximation for Sample-Efficient
    RLHF", ICLR 2025, arXiv:2405.21046.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.xpo import xpo
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class XPO(AlignmentModule):
    r"""DPO on pairs of a response of the policy and one of the reference, with optimism about the latter [1].

    .. math::
        \min_\pi E_{y \sim \pi_t, \tilde y \sim \pi_{ref}} \big[-\log\sigma(\beta h) + \alpha \log\pi(\tilde y)\big]

    Every response of the policy is paired with every one of the reference (``sampler.sources``). [1] fits all data
    seen so far in each iteration; here an iteration fits its own.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        beta: KL strength, > 0; larger keeps the policy closer to the reference.
        alpha: Optimism, >= 0, per nat; 0 is DPO. Larger moves more mass away from what the reference says.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: beta <= 0, alpha < 0, or the sampler has no slot of the policy or of the reference.
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

    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch pairs"], Float[Tensor, "batch pairs"]]:
        """Losses of the pairs, and their weights: 0 for a pair that was not compared."""
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
