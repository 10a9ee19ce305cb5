"""Online identity preference optimisation.

[1] M. G. Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", AISTATS 2024,
    arXiv:2310.12036.
[2] D. Calandriello et al., "Human Alignment of Large Language Models through Online Preference Optimisation",
    ICML 2024, arXiv:2403.08635.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.ipo import ipo, ipo_mean
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class IPO(PairwiseModule):
    r"""IPO [1] on pairs of the policy's own responses [2], towards a fixed reference.

    .. math::
        \pi_{t+1} = \arg\min_\pi E_{y, y' \sim \pi_t} \Big(h - \frac{1}{2\tau}\Big)^2
            \propto \pi_{ref} \exp(P(y \succ \pi_t) / \tau)

    An exact iteration is this best response to pi_t, which need not settle where tau is small; with few steps an
    iteration the policy stays near pi_t, and where it rests it is the equilibrium of the regularised game [2]. The
    minimiser needs both responses drawn from pi_t, hence random pairs.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        tau: KL strength towards the reference, > 0, win rate per nat; larger keeps the policy closer to it.
        reduction: ``sum`` over tokens, as in [1], or their ``mean``, as in TRL, whose tau is per nat and token.
        pairing: ``random`` or ``all``; ``best_worst`` is not a draw from pi_t and moves the minimiser.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: tau <= 0.
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

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Squared error of the margin to the reference."""
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        if self.reduction == "mean":
            return ipo_mean(*logps, **pair_lengths(rollouts, pairs), tau=self.tau, preference=pairs.preference)
        return ipo(*logps, tau=self.tau, preference=pairs.preference)
