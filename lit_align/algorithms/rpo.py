"""Regularised preference optimisation trains with :mod:`lit_align.losses.rpo`, which names [1]."""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.rpo import rpo, rpo_mean
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class RPO(PairwiseModule):
    """Trains DPO and the log-likelihood of the winner [1] on the policy's own responses, towards the reference.

    Args:
        beta: KL strength, > 0; larger keeps the policy closer to the reference. [1] uses 0.01 and 0.05.
        eta: Weight of the supervised loss, >= 0; 0 is DPO. [1] uses 0.005 with the ``sum`` and 0.2 with the ``mean``.
        supervised: The supervised loss is of the ``sum`` over tokens, with eta beta before it, as in [1], or of their
            ``mean``, with eta before it, as in its appendix.
        pairing: ``random`` pairs of independent responses by default, as in the data sets of [1].
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.05,
        eta: float = 0.005,
        supervised: Literal["sum", "mean"] = "sum",
        pairing: Pairing = "random",
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if eta < 0:
            raise ValueError(f"model.eta must be >= 0, got {eta}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.beta = beta
        self.eta = eta
        self.supervised: Literal["sum", "mean"] = supervised

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        if self.supervised == "sum":
            return rpo(*logps, beta=self.beta, eta=self.eta, preference=pairs.preference)
        lengths = pair_lengths(rollouts, pairs)
        return rpo_mean(*logps, **lengths, beta=self.beta, eta=self.eta, preference=pairs.preference)
