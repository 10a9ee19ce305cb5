"""Odds ratio preference optimisation.

[1] J. Hong, N. Lee, J. Thorne, "ORPO: Monolithic Preference Optimization without Reference Model", EMNLP 2024,
    arXiv:2403.07691.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths
from lit_align.judges.base import Judge
from lit_align.losses.orpo import orpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class ORPO(PairwiseModule):
    r"""ORPO [1] on pairs of the policy's own responses: learn the chosen one, and prefer it by the odds of its tokens.

    .. math::
        \min_\pi E[-m_w - \lambda \log\sigma(\mathrm{logit}\, e^{m_w} - \mathrm{logit}\, e^{m_l})], \quad
        m = \log\pi(y) / |y|

    There is neither reference nor anchor in the loss. [1] trains a base model on written pairs in one pass, which
    ``PairData`` does here; on the policy's own responses, the likelihood term learns what the judge likes best.

    Args:
        policy: What is aligned.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        odds_weight: lambda, >= 0; larger prefers more strongly. [1] uses 0.1 for Mistral 7B.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`.

    Raises:
        ValueError: odds_weight < 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, policy: Policy, judge: Judge | None = None, odds_weight: float = 0.1, **kwargs: Any) -> None:
        if odds_weight < 0:
            raise ValueError(f"model.odds_weight must be >= 0, got {odds_weight}")
        super().__init__(policy, judge, **kwargs)
        self.odds_weight = odds_weight

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Likelihood of the chosen response, and the logistic loss of the log odds ratio."""
        policy = rollouts.policy_logps
        return orpo(
            gather(policy, pairs.first),
            gather(policy, pairs.second),
            **pair_lengths(rollouts, pairs),
            odds_weight=self.odds_weight,
            preference=pairs.preference,
        )
