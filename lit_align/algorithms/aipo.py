"""Agreement-aware iterative preference optimisation trains with :mod:`lit_align.losses.aipo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.aipo import aipo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class AIPO(PairwiseModule):
    """Iterates DPO that asks for more where its anchor agrees with the judge, and keeps the winner likely [1].

    Each iteration draws from the anchor pi_t, the previous iterate, starts from it and compares with it. The
    instructions of [1] are made up by the model itself; here they come from the prompt pool. ``pairing: best_worst`` is
    the rule of [1].

    Args:
        beta: KL strength, > 0; larger moves less far in one iteration. [1] uses 0.1.
        alpha: Share of the anchor's own margin that is asked for on top, >= 0; 0 is DPO. [1] uses 0.03 to 0.09.
        nll_weight: Weight of the mean NLL of the winner, >= 0, per nat and token. [1] uses 0.2 and 0.5.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.1,
        alpha: float = 0.07,
        nll_weight: float = 0.5,
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        for name, value in (("alpha", alpha), ("nll_weight", nll_weight)):
            if value < 0:
                raise ValueError(f"model.{name} must be >= 0, got {value}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.alpha = alpha
        self.nll_weight = nll_weight

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        return aipo(
            *policy_and(rollouts.anchor_logps, rollouts, pairs),
            **pair_lengths(rollouts, pairs),
            beta=self.beta,
            alpha=self.alpha,
            nll_weight=self.nll_weight,
            preference=pairs.preference,
        )
