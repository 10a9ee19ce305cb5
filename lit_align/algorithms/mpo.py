"""Maximum preference optimisation trains with :mod:`lit_align.losses.mpo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import Pairing, PairwiseModule
from lit_align.judges.base import Judge
from lit_align.losses.mpo import mpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class MPO(PairwiseModule):
    """Trains the preference term of MPO [1] on pairs of the policy's own responses.

    This form of it is of low confidence. The terms that regularise [1] are left out, and there is neither reference nor
    anchor in the loss: the learning rate alone limits how far an iteration goes. Responses of unlike length are far
    apart to begin with, and give next to no gradient.

    Args:
        pairing: ``random`` pairs of independent responses by default: importance sampling is about pairs as drawn.
    """

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, policy: Policy, judge: Judge | None = None, pairing: Pairing = "random", **kwargs: Any) -> None:
        super().__init__(policy, judge, pairing, **kwargs)

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        policy = rollouts.policy_logps
        return mpo(gather(policy, pairs.first), gather(policy, pairs.second), preference=pairs.preference)
