"""Simple preference optimisation.

[1] Y. Meng, M. Xia, D. Chen, "SimPO: Simple Preference Optimization with a Reference-Free Reward", NeurIPS 2024,
    arXiv:2405.14734.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths
from lit_align.judges.base import Judge
from lit_align.losses.simpo import simpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class SimPO(PairwiseModule):
    r"""SimPO [1] on pairs of the policy's own responses: the mean log-prob is the reward, with a target margin.

    .. math::
        \min_\pi E\Big[-\log\sigma\Big(\beta \frac{\log\pi(y_w)}{|y_w|} - \beta \frac{\log\pi(y_l)}{|y_l|} -
            \gamma\Big)\Big]

    There is neither reference nor anchor in the loss: the learning rate alone limits how far an iteration goes.

    Args:
        policy: What is aligned.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: Reward per nat and token, > 0; larger saturates at smaller differences. [1] uses 2 to 10.
        gamma: Target margin, >= 0, in units of reward; beta times the ``gamma_beta_ratio`` of the authors' code.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`; ``pairing`` is ``best_worst`` by default,
            the recipe of [1] for responses ranked by a reward model, a heuristic.

    Raises:
        ValueError: beta <= 0, or gamma < 0.
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

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Logistic loss of the difference of mean log-probs."""
        policy = rollouts.policy_logps
        return simpo(
            gather(policy, pairs.first),
            gather(policy, pairs.second),
            **pair_lengths(rollouts, pairs),
            beta=self.beta,
            gamma=self.gamma,
            preference=pairs.preference,
        )
