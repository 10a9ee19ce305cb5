"""J-BOND: online best-of-n distillation with three responses a prompt.

[1] P. G. Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, arXiv:2407.14622, Algorithm 2.
"""

from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from lit_align.anchors.base import Anchor
from lit_align.anchors.moving_average import MovingAverage
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.jbond import jbond, jbond_advantages, leave_one_out
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class JBOND(AlignmentModule):
    """Best-of-two distillation of an anchor that follows the policy [1, Algorithm 2].

    One response comes from the policy, two from the anchor (``sampler.sources``). It is a policy gradient: use
    iterations of one optimiser step; the anchor moves once an iteration. Rewards that tie are half a win: a tie with
    both anchors costs log(16)/4, where [1] has 0 (`lit_align.losses.jbond`).

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        beta: Share of the backward divergence, in [0, 1].
        gamma: Strength of the KL divergence from the anchor, >= 0.
        anchor: ``MovingAverage(rate)``; [1] uses a rate of 0.02.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: beta or gamma is out of its range, or the slots are not one of the policy and two of the anchor.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "current"})
    roles: ClassVar[tuple[Slot, ...]] = ("policy", "anchor", "anchor")
    min_group_size: ClassVar[int] = 3

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.5,
        gamma: float = 0.0,
        anchor: Anchor | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 <= beta <= 1:
            raise ValueError(f"model.beta must lie in [0, 1], got {beta}")
        if gamma < 0:
            raise ValueError(f"model.gamma must be >= 0, got {gamma}")
        super().__init__(policy, judge, anchor=anchor or MovingAverage(), **kwargs)
        if sorted(self.sampler.sources) != ["anchor", "anchor", "policy"]:
            raise ValueError("J-BOND takes three responses: set model.sampler.sources to [policy, anchor, anchor]")
        self.beta = beta
        self.gamma = gamma

    def prepare(self, rollouts: Rollouts) -> Rollouts:
        """Baselines: the mean advantage of the other prompts.

        Raises:
            ValueError: The responses are enumerated, and not three.
        """
        if rollouts.responses.group_size != 3:
            raise ValueError("J-BOND takes three drawn responses, not all of them: set model.sampler to a Sampler")
        return replace(rollouts, baselines=leave_one_out(self._advantages(rollouts), self._counts(rollouts)))

    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The surrogate of each prompt; one without the comparisons that its terms need has weight 0."""
        order = self._order(rollouts)
        advantages = self._advantages(rollouts)
        if rollouts.baselines is not None:
            advantages = advantages - rollouts.baselines
        values = jbond(rollouts.policy_logps[:, order], self._wins(rollouts), advantages, beta=self.beta)
        return values, self._counts(rollouts).to(values.dtype)

    def _counts(self, rollouts: Rollouts) -> Bool[Tensor, " batch"]:
        """Whether a prompt has the comparisons that its terms need.

        The forward divergence needs that of the anchor's two responses, the backward one those of the policy's with
        each. Both go out together: one alone would change the share that ``beta`` gives them.
        """
        order = self._order(rollouts)
        compared = rollouts.compared[:, order][:, :, order]
        forward, backward = compared[:, 1, 2], compared[:, 0, 1] & compared[:, 0, 2]
        return (forward | (self.beta == 1)) & (backward | (self.beta == 0))

    def _advantages(self, rollouts: Rollouts) -> Float[Tensor, " batch"]:
        order = self._order(rollouts)
        current, anchor = rollouts.current_logps[:, order], rollouts.anchor_logps[:, order]
        return jbond_advantages(current, anchor, self._wins(rollouts), beta=self.beta, gamma=self.gamma)

    def _wins(self, rollouts: Rollouts) -> Float[Tensor, "batch 3 3"]:
        order = self._order(rollouts)
        return rollouts.wins[:, order][:, :, order]

    def _order(self, rollouts: Rollouts) -> list[int]:
        return rollouts.slots("policy") + rollouts.slots("anchor")
