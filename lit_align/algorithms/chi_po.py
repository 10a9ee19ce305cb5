"""chi-PO: direct preference optimisation regularised by the chi-squared divergence.

[1] A. Huang et al., "Correcting the Mythos of KL-Regularization: Direct Alignment without Overoptimization via
    Chi-Squared Preference Optimization", ICLR 2025, arXiv:2407.13399.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.chi_po import chi_po
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class ChiPO(PairwiseModule):
    r"""chi-PO [1] on pairs of the policy's own responses, towards the fixed reference.

    .. math::
        \pi = \pi_{ref}\, W_0\big(\exp((r - Z)/\beta)\big)

    is what an exact iteration ends at under Bradley-Terry preferences of a reward r, W_0 Lambert's function (derived),
    where the clip is not reached.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: Strength of the regulariser, > 0, in units of reward; larger keeps the policy closer to the reference. [1]
            uses 0.005 and 0.05.
        r_max: Bound on rewards, > 0: differences are clipped to twice it, with no gradient outside.
        pairing: ``random`` pairs of independent responses by default: their labels are what the law is about. ``all``
            does as well, ``best_worst`` does not.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: beta <= 0, or r_max <= 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.05,
        r_max: float = 1.0,
        pairing: Pairing = "random",
        **kwargs: Any,
    ) -> None:
        for name, value in (("beta", beta), ("r_max", r_max)):
            if value <= 0:
                raise ValueError(f"model.{name} must be > 0, got {value}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.beta = beta
        self.r_max = r_max

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """chi-PO against the reference."""
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return chi_po(*logps, beta=self.beta, r_max=self.r_max, preference=pairs.preference)
