"""Agreement-aware iterative preference optimisation.

[1] Y. Shen et al., "AIPO: Improving Training Objective for Iterative Preference Optimization", 2024, arXiv:2409.08845.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.aipo import aipo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class AIPO(PairwiseModule):
    r"""Iterative DPO that asks for more where its anchor agrees with the judge, and keeps the winner likely [1].

    .. math::
        \min_\pi E\Big[-\log\sigma\big(\beta (s_\pi - (1+\alpha) s_{\pi_t})\big) - \lambda
            \frac{\log\pi(y_w)}{|y_w|}\Big], \quad s_\pi = \log\pi(y_w) - \log\pi(y_l)

    Each iteration draws from the anchor pi_t, the previous iterate, starts from it and compares with it. The
    instructions of [1] are made up by the model itself; here they come from the prompt pool.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: KL strength, > 0; larger moves less far in one iteration. [1] uses 0.1.
        alpha: Share of the anchor's own margin that is asked for on top, >= 0; 0 is DPO. [1] uses 0.03 to 0.09.
        nll_weight: lambda, >= 0, weight of the mean NLL of the winner, per nat and token. [1] uses 0.2 and 0.5.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`; ``pairing`` is ``best_worst`` by default,
            the rule of [1].

    Raises:
        ValueError: beta <= 0, alpha < 0, or nll_weight < 0.
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

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """The loss against the anchor."""
        return aipo(
            *policy_and(rollouts.anchor_logps, rollouts, pairs),
            **pair_lengths(rollouts, pairs),
            beta=self.beta,
            alpha=self.alpha,
            nll_weight=self.nll_weight,
            preference=pairs.preference,
        )
