"""Iterative Nash policy optimisation.

[1] Y. Zhang et al., "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret
    Learning", ICLR 2025, arXiv:2407.00617.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.inpo import inpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class INPO(PairwiseModule):
    r"""Online mirror descent in the regularised game, one comparison a pair [1].

    .. math::
        \log\pi_{t+1} = \tfrac{\tau}{\eta}\log\pi_{ref} + (1 - \tfrac{\tau}{\eta}) \log\pi_t
            + \tfrac1\eta P(y \succ \pi_t) + c

    It is the exact WIND step with WIND's beta = tau and 1/eta_WIND = eta - tau. Its minimiser needs both responses
    drawn from pi_t, hence random pairs.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        eta: Inverse step size, > tau, win rate per nat; larger moves less far in one iteration.
        tau: KL strength towards the reference, >= 0, win rate per nat.
        pairing: ``random`` or ``all``; ``best_worst`` is not a draw from pi_t and moves the minimiser.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: Not eta > tau >= 0.
    """

    takes_pairs: ClassVar[bool] = False

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        eta: float = 7.5e-3,
        tau: float = 2.5e-3,
        pairing: Pairing = "random",
        **kwargs: Any,
    ) -> None:
        if not eta > tau >= 0:
            raise ValueError(f"model.eta and model.tau must satisfy eta > tau >= 0, got {eta} and {tau}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.eta = eta
        self.tau = tau

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Squared error of the margin."""
        return inpo(
            *policy_and(rollouts.reference_logps, rollouts, pairs),
            anchor_chosen_logps=gather(rollouts.anchor_logps, pairs.first),
            anchor_rejected_logps=gather(rollouts.anchor_logps, pairs.second),
            eta=self.eta,
            tau=self.tau,
            preference=pairs.preference,
        )
