"""Iterative direct preference optimisation trains with :mod:`lit_align.losses.dpo`, which names [1] and [2].

[3] H. Dong et al., "RLHF Workflow: From Reward Modeling to Online RLHF", TMLR 2024, arXiv:2405.07863.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.dpo import dpo, robust_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class DPO(PairwiseModule):
    r"""Trains DPO [1] on pairs of the policy's own responses, and iterates it [3].

    The loss compares with the *anchor*: the previous iterate by default, so that under Bradley-Terry preferences of a
    reward an exact iteration is :math:`\pi_{t+1} \propto \pi_t \exp(r/\beta)`. With ``anchor: Initial`` it compares
    with the reference throughout, as in one-shot DPO. ``pairing: best_worst`` is the recipe of [3], which is a
    heuristic: the exact iteration needs ``all`` or ``random`` and judges that say how sure they are.

    Args:
        beta: KL strength, > 0; larger moves less far in one iteration.
        eps: Share of labels taken to be wrong, in [0, ½).
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

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        return dpo(*logps, beta=self.beta, preference=pairs.preference, eps=self.eps)


class RobustDPO(DPO):
    """Trains DPO with a loss that is unbiased when labels are flipped with probability ``eps`` [2]; eps = 0 is DPO.

    Where DPO's eps smooths the label, this one undoes the flips, and so pushes a pair that was seen with one label only
    without end.
    """

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        return robust_dpo(*logps, beta=self.beta, preference=pairs.preference, eps=self.eps)
