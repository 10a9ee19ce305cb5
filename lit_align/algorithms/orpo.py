"""Odds ratio preference optimisation trains with :mod:`lit_align.losses.orpo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths
from lit_align.judges.base import Judge
from lit_align.losses.orpo import orpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class ORPO(PairwiseModule):
    """Learns the chosen response, and prefers it by the odds of its tokens [1], on pairs of the policy's own responses.

    There is neither reference nor anchor in the loss. [1] trains a base model on written pairs in one pass, which
    ``PairData`` does here; on the policy's own responses, the likelihood term learns what the judge likes best.

    Args:
        odds_weight: Weight of the odds ratio, >= 0; larger prefers more strongly. [1] uses 0.1 for Mistral 7B.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, policy: Policy, judge: Judge | None = None, odds_weight: float = 0.1, **kwargs: Any) -> None:
        if odds_weight < 0:
            raise ValueError(f"model.odds_weight must be >= 0, got {odds_weight}")
        super().__init__(policy, judge, **kwargs)
        self.odds_weight = odds_weight

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        policy = rollouts.policy_logps
        return orpo(
            gather(policy, pairs.first),
            gather(policy, pairs.second),
            **pair_lengths(rollouts, pairs),
            odds_weight=self.odds_weight,
            preference=pairs.preference,
        )
