"""Iterative Nash policy optimisation trains with :mod:`lit_align.losses.inpo`, which names [1] and the exact step."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.inpo import inpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class INPO(PairwiseModule):
    """Runs online mirror descent in the regularised game, one comparison a pair [1].

    Args:
        eta: Inverse step size, > tau, win rate per nat; larger moves less far in one iteration.
        tau: KL strength towards the reference, >= 0, win rate per nat.
        pairing: ``random`` or ``all``; ``best_worst`` is not a draw from pi_t and moves the minimiser.
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

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        return inpo(
            *policy_and(rollouts.reference_logps, rollouts, pairs),
            anchor_chosen_logps=gather(rollouts.anchor_logps, pairs.first),
            anchor_rejected_logps=gather(rollouts.anchor_logps, pairs.second),
            eta=self.eta,
            tau=self.tau,
            preference=pairs.preference,
        )
