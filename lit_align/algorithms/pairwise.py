"""Pair methods share this base: a pairing says which pairs, a loss says how much each costs."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, TypedDict

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import PAIRINGS, Pairs, gather
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.models.policy import Policy
from lit_align.types import Rollouts

Pairing = Literal["best_worst", "random", "all"]


class PairwiseModule(AlignmentModule):
    """Wires an algorithm whose loss is one of pairs.

    Args:
        pairing: ``best_worst`` of each group, ``random`` disjoint pairs, or ``all`` of them; enumerated responses need
            ``all``.
    """

    takes_pairs: ClassVar[bool] = True

    def __init__(
        self, policy: Policy, judge: Judge | None = None, pairing: Pairing = "best_worst", **kwargs: Any
    ) -> None:
        check_pairing(pairing)
        super().__init__(policy, judge, **kwargs)
        self.pairing: Pairing = pairing

    @override
    def takes_soft_labels(self) -> bool:
        return self.pairing != "best_worst"

    @abstractmethod
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Return the loss of every pair."""

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch pairs"], Float[Tensor, "batch pairs"]]:
        pairs = PAIRINGS[self.pairing](rollouts)
        return self.pair_losses(rollouts, pairs), pairs.weights


def check_pairing(pairing: str) -> None:
    """Refuse the name of a pairing that there is not."""
    if pairing not in PAIRINGS:
        raise ValueError(f"model.pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")


def policy_and(
    base: Float[Tensor, "batch group"], rollouts: Rollouts, pairs: Pairs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return log-probs as pair losses take them: policy chosen, policy rejected, base chosen, base rejected.

    ``base`` holds the log-probs that the policy's are compared with, the anchor's or the reference's.
    """
    policy = rollouts.policy_logps
    return (
        gather(policy, pairs.first),
        gather(policy, pairs.second),
        gather(base, pairs.first),
        gather(base, pairs.second),
    )


class PairLengths(TypedDict):
    """Holds the tokens of each response of a pair, end of sequence included."""

    chosen_lengths: Int[Tensor, "batch pairs"]
    rejected_lengths: Int[Tensor, "batch pairs"]


def pair_lengths(rollouts: Rollouts, pairs: Pairs) -> PairLengths:
    """Return ``chosen_lengths`` and ``rejected_lengths`` as a loss takes them."""
    lengths = rollouts.responses.lengths
    return {
        "chosen_lengths": lengths.gather(-1, pairs.first),
        "rejected_lengths": lengths.gather(-1, pairs.second),
    }
