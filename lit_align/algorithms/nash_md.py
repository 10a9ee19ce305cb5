"""Nash mirror descent by policy gradient.

[1] R. Munos et al., "Nash Learning from Human Feedback", ICML 2024, arXiv:2312.00886.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.groups import group_shares
from lit_align.losses.nash_md import nash_md
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class NashMD(AlignmentModule):
    r"""The policy climbs its regularised win rate against its own mixture with the reference [1, Nash-MD-PG].

    .. math::
        \nabla_\theta \big[ P(\pi_\theta \succ \pi') - \tau\,\mathrm{KL}(\pi_\theta \| \pi_{ref}) \big], \quad
        \pi' \propto \pi_t^{1-c} \pi_{ref}^{c} \;\text{at every token}

    Responses come from the policy and from the mixture (``sampler.sources``), c is ``sampler.mixture``. A policy
    gradient needs samples of the current policy: use iterations of one optimiser step. The opponent being the mixture,
    the limit is not the equilibrium exactly.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        tau: KL strength towards the reference, >= 0, win rate per nat.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: tau < 0, or the sampler has no slot of the policy or of the mixture.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    roles: ClassVar[tuple[Slot, ...]] = ("policy", "mixture")

    def __init__(self, policy: Policy, judge: Judge | None = None, tau: float = 0.1, **kwargs: Any) -> None:
        if tau < 0:
            raise ValueError(f"model.tau must be >= 0, got {tau}")
        super().__init__(policy, judge, **kwargs)
        self.tau = tau

    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The surrogate of the responses that met an opponent; a prompt where none did has weight 0."""
        mine, theirs = rollouts.slots("policy"), rollouts.slots("mixture")
        win_rates, met = rollouts.win_rates_between(mine, theirs)
        logps, weights = rollouts.policy_logps[:, mine], rollouts.weights
        values = nash_md(
            logps,
            rollouts.reference_logps[:, mine],
            win_rates,
            tau=self.tau,
            weights=group_shares(met, None if weights is None else weights[:, mine], dtype=logps.dtype),
        )
        return values, met.any(-1).to(values.dtype)
