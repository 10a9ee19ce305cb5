"""MinorDPO: DPO that stops pushing a rejected response down at the reference.

[1] S. Xie et al., "Minor DPO reject penalty to increase training robustness", 2024, arXiv:2408.09834.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.minor_dpo import minor_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class MinorDPO(PairwiseModule):
    r"""MinorDPO [1] on pairs of the policy's own responses, towards the fixed reference.

    .. math::
        \min_\pi E\big[-\log\sigma(\beta [u(y_w) - \max(0, u(y_l))])\big], \quad u = \log(\pi / \pi_{ref})

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: KL strength, > 0; larger keeps the policy closer to the reference.
        pairing: ``random`` pairs of independent responses by default, as in the data sets of [1].
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.

    Raises:
        ValueError: beta <= 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 0.1, pairing: Pairing = "random", **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        super().__init__(policy, judge, pairing, **kwargs)
        self.beta = beta

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """MinorDPO against the reference."""
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return minor_dpo(*logps, beta=self.beta, preference=pairs.preference)
