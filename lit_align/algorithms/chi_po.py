"""chi-PO is DPO regularised by the chi-squared divergence; :mod:`lit_align.losses.chi_po` names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.chi_po import chi_po
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class ChiPO(PairwiseModule):
    """Trains chi-PO [1] on pairs of the policy's own responses, towards the fixed reference.

    Args:
        beta: Strength of the regulariser, > 0, in units of reward; larger keeps the policy closer to the reference. [1]
            uses 0.005 and 0.05.
        r_max: Bound on rewards, > 0: differences are clipped to twice it, with no gradient outside.
        pairing: ``random`` or ``all`` pairs of independent responses: their labels are what the theory is about, unlike
            those of ``best_worst``.
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

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return chi_po(*logps, beta=self.beta, r_max=self.r_max, preference=pairs.preference)
