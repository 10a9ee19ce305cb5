"""Simple preference optimisation trains with :mod:`lit_align.losses.simpo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths
from lit_align.judges.base import Judge
from lit_align.losses.simpo import simpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class SimPO(PairwiseModule):
    """Trains SimPO [1] on pairs of the policy's own responses: the mean log-prob is the reward, with a target margin.

    There is neither reference nor anchor in the loss: the learning rate alone limits how far an iteration goes.
    ``pairing: best_worst`` is the recipe of [1] for responses ranked by a reward model, a heuristic.

    Args:
        beta: Reward per nat and token, > 0; larger saturates at smaller differences. [1] uses 2 to 10.
        gamma: Target margin, >= 0, in units of reward; beta times the ``gamma_beta_ratio`` of the authors' code.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 2.5, gamma: float = 1.375, **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if gamma < 0:
            raise ValueError(f"model.gamma must be >= 0, got {gamma}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.gamma = gamma

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        policy = rollouts.policy_logps
        return simpo(
            gather(policy, pairs.first),
            gather(policy, pairs.second),
            **pair_lengths(rollouts, pairs),
            beta=self.beta,
            gamma=self.gamma,
            preference=pairs.preference,
        )
