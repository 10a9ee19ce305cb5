"""Online identity preference optimisation trains with :mod:`lit_align.losses.ipo`, which names [1].

[2] D. Calandriello et al., "Human Alignment of Large Language Models through Online Preference Optimisation",
    ICML 2024, arXiv:2403.08635.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.ipo import ipo, ipo_mean
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class IPO(PairwiseModule):
    r"""Trains IPO [1] on pairs of the policy's own responses [2], towards a fixed reference.

    An exact iteration is the best response to pi_t, :math:`\propto \pi_{ref} \exp(P(y \succ \pi_t) / \tau)`, which need
    not settle where tau is small; with few steps an iteration the policy stays near pi_t, and where it rests it is the
    equilibrium of the regularised game [2].

    Args:
        tau: KL strength towards the reference, > 0, win rate per nat; larger keeps the policy closer to it.
        reduction: ``sum`` over tokens, as in [1], or their ``mean``, as in TRL, whose tau is per nat and token.
        pairing: ``random`` or ``all``; ``best_worst`` is not a draw from pi_t and moves the minimiser.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        tau: float = 0.1,
        reduction: Literal["sum", "mean"] = "sum",
        pairing: Pairing = "random",
        **kwargs: Any,
    ) -> None:
        if tau <= 0:
            raise ValueError(f"model.tau must be > 0, got {tau}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.tau = tau
        self.reduction: Literal["sum", "mean"] = reduction

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        if self.reduction == "mean":
            return ipo_mean(*logps, **pair_lengths(rollouts, pairs), tau=self.tau, preference=pairs.preference)
        return ipo(*logps, tau=self.tau, preference=pairs.preference)
