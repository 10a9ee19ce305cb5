"""Iterative direct preference optimisation.

[1] R. Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", NeurIPS 2023,
    arXiv:2305.18290.
[2] H. Dong et al., "RLHF Workflow: From Reward Modeling to Online RLHF", TMLR 2024, arXiv:2405.07863.
[3] S. Ray Chowdhury, A. Kini, N. Natarajan, "Provably Robust DPO: Aligning Language Models with Noisy Feedback",
    ICML 2024, arXiv:2403.00409.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.dpo import dpo, robust_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class DPO(PairwiseModule):
    r"""DPO [1] on pairs of the policy's own responses, iterated [2].

    The loss compares with the *anchor*: the previous iterate by default, so that under Bradley-Terry preferences of a
    reward an exact iteration is :math:`\pi_{t+1} \propto \pi_t \exp(r/\beta)`. With ``anchor: Initial`` it compares
    with the reference throughout, as in one-shot DPO.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        beta: KL strength, > 0; larger moves less far in one iteration.
        eps: Share of labels taken to be wrong, in [0, ½).
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`; ``pairing`` is ``best_worst`` by default,
            the recipe of [2], which is a heuristic: the exact iteration above needs ``all`` or ``random`` and judges
            that say how sure they are.

    Raises:
        ValueError: beta <= 0, or eps outside [0, ½).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 0.1, eps: float = 0.0, **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if not 0 <= eps < 0.5:
            raise ValueError(f"model.eps must lie in [0, 0.5), got {eps}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.eps = eps

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """DPO against the anchor."""
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        return dpo(*logps, beta=self.beta, preference=pairs.preference, eps=self.eps)


class RobustDPO(DPO):
    r"""DPO whose loss is unbiased when labels are flipped with probability eps [3]; with eps = 0 it is DPO.

    Where DPO's eps smooths the label, this one undoes the flips, and so pushes a pair that was seen with one label only
    without end.

    Args: as for :class:`DPO`; ``eps`` is the probability in [0, ½) that a label was flipped.
    """

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Robust DPO against the anchor."""
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        return robust_dpo(*logps, beta=self.beta, preference=pairs.preference, eps=self.eps)
