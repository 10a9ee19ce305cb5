"""J-BOND trains with :mod:`lit_align.losses.jbond`, which names [1], on three responses to a prompt."""

from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from lit_align.anchors.base import Anchor
from lit_align.anchors.moving_average import MovingAverage
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.jbond import jbond, jbond_advantages, leave_one_out
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class JBOND(AlignmentModule):
    """Distils the best of two responses of an anchor that follows the policy [1, Algorithm 2].

    One response comes from the policy, two from the anchor (``model.sampler.sources``). It is a policy gradient: use
    iterations of one optimiser step; the anchor moves once an iteration.

    Args:
        beta: Share of the backward divergence, in [0, 1].
        gamma: Strength of the KL divergence from the anchor, >= 0.
        anchor: ``MovingAverage(rate)``; [1] uses a rate of 0.02.
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

    @override
    def prepare(self, rollouts: Rollouts) -> Rollouts:
        """Add baselines, the mean advantage of the other prompts; refuse enumerated responses, which are not three."""
        if rollouts.responses.group_size != 3:
            raise ValueError("J-BOND takes three drawn responses, not all of them: set model.sampler to a Sampler")
        return replace(rollouts, baselines=leave_one_out(self._advantages(rollouts), self._counts(rollouts)))

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        order = self._order(rollouts)
        advantages = self._advantages(rollouts)
        if rollouts.baselines is not None:
            advantages = advantages - rollouts.baselines
        values = jbond(rollouts.policy_logps[:, order], self._wins(rollouts), advantages, beta=self.beta)
        return values, self._counts(rollouts).to(values.dtype)

    def _counts(self, rollouts: Rollouts) -> Bool[Tensor, " batch"]:
        """Say whether a prompt has the comparisons that its terms need.

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
