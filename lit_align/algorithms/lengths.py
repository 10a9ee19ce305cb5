"""Lengths of the responses of a pair, as the losses of means take them."""

from typing import TypedDict

from jaxtyping import Int
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.types import Rollouts


class PairLengths(TypedDict):
    """Tokens of each response of a pair, end of sequence included."""

    chosen_lengths: Int[Tensor, "batch pairs"]
    rejected_lengths: Int[Tensor, "batch pairs"]


def pair_lengths(rollouts: Rollouts, pairs: Pairs) -> PairLengths:
    """What ``chosen_lengths`` and ``rejected_lengths`` of a loss are.

    Args:
        rollouts: Where the responses are.
        pairs: Which responses.
    """
    lengths = rollouts.responses.lengths
    return {
        "chosen_lengths": lengths.gather(-1, pairs.first),
        "rejected_lengths": lengths.gather(-1, pairs.second),
    }
