"""Iterative best-of-n distillation trains with :mod:`lit_align.losses.bond`, which names [1].

[2] T. Yang et al., "Faster WIND: Accelerating Iterative Best-of-N Distillation for LLM Alignment", AISTATS 2025,
    arXiv:2410.20727, Algorithm 1 (mixing).
"""

from dataclasses import replace
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from lit_align.anchors.base import Anchor
from lit_align.anchors.previous import Previous
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.bond import best_of_n_weights, bond_rewards, jeffreys, quantiles, sampled_bond_rewards
from lit_align.losses.groups import group_mean, group_shares
from lit_align.losses.jbond import leave_one_out
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class IterativeBOND(AlignmentModule):
    r"""Pulls the policy to the best-of-n law of its anchor, which becomes the policy every so often [1, Algorithm 1].

    .. math::
        \min_\pi \; a_1 J^\beta(\pi, \pi_t^{(n)}) + a_2 \mathrm{KL}(\pi \| \pi_t) + (1-a_1-a_2) \mathrm{KL}(\pi \|
        \pi_{ref}), \quad J^\beta = (1-\beta) \mathrm{KL}(\pi_t^{(n)} \| \pi) + \beta \mathrm{KL}(\pi \| \pi_t^{(n)})

    With beta = 1 the minimiser is the mixing step of [2], :math:`\propto (\pi_t^{(n)})^{a_1} \pi_t^{a_2}
    \pi_{ref}^{1-a_1-a_2}` (derived); a1 = 1 is no mixing. Responses come from the policy and from the anchor
    (``model.sampler.sources``); one without a reward is left out, as if it had not been drawn. The backward divergence
    is a policy gradient: use iterations of one optimiser step, and move the anchor every so many of them. It aims short
    of best-of-n where the anchor has few slots, as `lit_align.losses.bond` says.

    Args:
        n: The n of best-of-n, >= 2 and at most the anchor's slots.
        beta: Share of the backward divergence, in [0, 1].
        law: ``approximate`` drops the second term of the log-law, as [1] does; ``exact`` keeps it.
        a1: Mixing rate of the best-of-n law, in (0, 1].
        a2: Mixing rate of the anchor, in [0, 1 - a1].
        anchor: ``Previous(every=M)``: the anchor becomes the policy every M iterations.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "reference", "current", "rewards"})
    roles: ClassVar[tuple[Slot, ...]] = ("policy", "anchor", "anchor")

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        n: int = 2,
        beta: float = 0.5,
        law: Literal["approximate", "exact"] = "approximate",
        a1: float = 1.0,
        a2: float = 0.0,
        anchor: Anchor | None = None,
        **kwargs: Any,
    ) -> None:
        if n < 2:
            raise ValueError(f"model.n must be >= 2, got {n}")
        if not 0 <= beta <= 1:
            raise ValueError(f"model.beta must lie in [0, 1], got {beta}")
        if not (0 < a1 <= 1 and 0 <= a2 <= 1 - a1 + 1e-12):
            raise ValueError(f"model.a1 and model.a2 must satisfy a1 > 0, a2 >= 0, a1 + a2 <= 1, got {a1} and {a2}")
        if a1 < 1 and beta == 0:
            raise ValueError("model.a1 < 1 mixes by KL divergences of the policy and needs model.beta > 0")
        super().__init__(policy, judge, anchor=anchor or Previous(every=100), **kwargs)
        self.n = n
        self.beta = beta
        self.law: Literal["approximate", "exact"] = law
        self.a1, self.a2 = a1, a2

    @override
    def prepare(self, rollouts: Rollouts) -> Rollouts:
        """Add baselines, the mean advantage of the other prompts; enumerated gradients need none."""
        if rollouts.weights is not None:
            return rollouts
        mean = group_mean(self._advantages(rollouts), self._shares(rollouts))
        return replace(rollouts, baselines=leave_one_out(mean, self._counts(rollouts)))

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        mine, theirs = rollouts.slots("policy"), rollouts.slots("anchor")
        advantages = self._advantages(rollouts)
        if rollouts.baselines is not None:
            advantages = advantages - rollouts.baselines[:, None]
        values = self.a1 * jeffreys(
            rollouts.policy_logps[:, theirs],
            self._forward_weights(rollouts, theirs),
            rollouts.policy_logps[:, mine],
            advantages,
            beta=self.beta,
            weights=self._shares(rollouts),
        )
        return values, self._counts(rollouts).to(values.dtype)

    def _counts(self, rollouts: Rollouts) -> Bool[Tensor, " batch"]:
        """Say whether a prompt has what both divergences need: all it enumerates, or one draw and n of the anchor's."""
        rewarded = rollouts.rewarded
        if rollouts.weights is not None:
            return rewarded.all(-1)
        enough = rewarded[:, rollouts.slots("anchor")].sum(-1) >= self.n
        return enough & rewarded[:, rollouts.slots("policy")].any(-1)

    def _shares(self, rollouts: Rollouts) -> Float[Tensor, "batch samples"]:
        mine, weights = rollouts.slots("policy"), rollouts.weights
        drawn_from = None if weights is None else weights[:, mine]
        return group_shares(rollouts.rewarded[:, mine], drawn_from, dtype=rollouts.current_logps.dtype)

    def _advantages(self, rollouts: Rollouts) -> Float[Tensor, "batch samples"]:
        """Return the best-of-n reward of the policy's samples, less the log-ratios that the divergences take."""
        mine, theirs = rollouts.slots("policy"), rollouts.slots("anchor")
        current = rollouts.current_logps[:, mine]
        to_anchor = current - rollouts.anchor_logps[:, mine]
        advantages = self._best_of_n_rewards(rollouts, mine, theirs) - to_anchor
        if self.a1 == 1:
            return advantages
        to_reference = current - rollouts.reference_logps[:, mine]
        a3 = 1 - self.a1 - self.a2
        return advantages - (self.a2 * to_anchor + a3 * to_reference) / (self.a1 * self.beta)

    def _forward_weights(self, rollouts: Rollouts, theirs: list[int]) -> Float[Tensor, "batch anchors"]:
        if rollouts.weights is None:
            return best_of_n_weights(_rewards(rollouts)[:, theirs], self.n, rollouts.rewarded[:, theirs])
        rewards = self._best_of_n_rewards(rollouts, theirs, theirs)
        return (rewards + rollouts.weights[:, theirs].log()).softmax(-1)

    def _best_of_n_rewards(self, rollouts: Rollouts, placed: list[int], among: list[int]) -> Tensor:
        rewards = _rewards(rollouts)
        if rollouts.weights is None:
            known = rollouts.rewarded[:, among]
            return sampled_bond_rewards(rewards[:, placed], rewards[:, among], known, n=self.n, law=self.law)
        standing = quantiles(rewards[:, placed], rewards[:, among], rollouts.weights[:, among])
        return bond_rewards(*standing, n=self.n, law=self.law)


def _rewards(rollouts: Rollouts) -> Float[Tensor, "batch group"]:
    assert rollouts.rewards is not None  # `needs` names them
    return rollouts.rewards.nan_to_num(0.0).to(rollouts.current_logps.dtype)
