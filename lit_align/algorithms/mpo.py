"""Maximum preference optimisation.

[1] Z. Jiang, X. Huang, C. Wei, "Preference as Reward, Maximum Preference Optimization with Importance Sampling", 2023,
    arXiv:2312.16430.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import Pairing, PairwiseModule
from lit_align.judges.base import Judge
from lit_align.losses.mpo import mpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class MPO(PairwiseModule):
    r"""The preference term of MPO [1] on pairs of the policy's own responses; a form of low confidence.

    .. math::
        \max_\pi E\big[\sigma(\log\pi(y_w) - \log\pi(y_l))\big]

    The supervised and pre-training terms that regularise [1] are left out, and there is neither reference nor anchor in
    the loss: the learning rate alone limits how far an iteration goes. Responses of unlike length are far apart to
    begin with, and give next to no gradient.

    Args:
        policy: What is aligned.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        pairing: ``random`` pairs of independent responses by default: importance sampling is about pairs as drawn.
        kwargs: As for :class:`~lit_align.iteration.module.AlignmentModule`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, policy: Policy, judge: Judge | None = None, pairing: Pairing = "random", **kwargs: Any) -> None:
        super().__init__(policy, judge, pairing, **kwargs)

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Minus the expected preference."""
        policy = rollouts.policy_logps
        return mpo(gather(policy, pairs.first), gather(policy, pairs.second), preference=pairs.preference)
