"""MinorDPO trains with :mod:`lit_align.losses.minor_dpo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.minor_dpo import minor_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class MinorDPO(PairwiseModule):
    """Trains DPO that stops pushing a rejected response down at the reference [1], on the policy's own responses.

    Args:
        beta: KL strength, > 0; larger keeps the policy closer to the reference.
        pairing: ``random`` pairs of independent responses by default, as in the data sets of [1].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 0.1, pairing: Pairing = "random", **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.beta = beta

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return minor_dpo(*logps, beta=self.beta, preference=pairs.preference)
