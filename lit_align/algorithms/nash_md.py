"""Nash mirror descent by policy gradient trains with :mod:`lit_align.losses.nash_md`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.groups import group_shares
from lit_align.losses.nash_md import nash_md
from lit_align.models.policy import Policy
from lit_align.sampling.sampler import Slot
from lit_align.types import Rollouts


class NashMD(AlignmentModule):
    r"""Climbs the regularised win rate of the policy against its own mixture with the reference [1, Nash-MD-PG].

    The mixture is :math:`\pi' \propto \pi_t^{1-c} \pi_{ref}^{c}` at every token, and c is ``model.sampler.mixture``.
    Responses come from the policy and from the mixture (``model.sampler.sources``). A policy gradient needs samples of
    the current policy: use iterations of one optimiser step. Because the opponent is the mixture, the limit is not
    exactly the equilibrium.

    Args:
        tau: KL strength towards the reference, >= 0, win rate per nat.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    roles: ClassVar[tuple[Slot, ...]] = ("policy", "mixture")

    def __init__(self, policy: Policy, judge: Judge | None = None, tau: float = 0.1, **kwargs: Any) -> None:
        if tau < 0:
            raise ValueError(f"model.tau must be >= 0, got {tau}")
        super().__init__(policy, judge, **kwargs)
        self.tau = tau

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
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
