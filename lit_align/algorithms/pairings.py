"""A pairing says which pairs of a group a pair loss sees.

It turns rollouts into :class:`Pairs`. What was not compared has weight 0, never a tie. The weights of a prompt whose
responses were drawn and all compared sum to one, so every prompt counts the same whatever the pairing.

``best_worst`` takes the best against the worst and calls the comparison won; it is not a fair sample of pairs, which
losses whose minimiser depends on the law of the pairs (IPO, INPO) do not forgive. ``random`` and ``all`` are, and carry
the probability itself: a loss of it is the mean over labels, without their noise. A pairing refuses groups of one
response with a ValueError, and all but ``all`` refuse rollouts that enumerate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lit_align.types import Rollouts


@dataclass(frozen=True)
class Pairs:
    """Holds pairs of responses to each prompt.

    Attributes:
        first: Slot of the chosen response.
        second: Slot of the rejected response.
        preference: P(first beats second), at least ½; ½ where they were not compared.
        weights: Share of the prompt's loss; 0 where they were not compared.
    """

    first: Int[Tensor, "batch pairs"]
    second: Int[Tensor, "batch pairs"]
    preference: Float[Tensor, "batch pairs"]
    weights: Float[Tensor, "batch pairs"]


def best_worst(rollouts: Rollouts) -> Pairs:
    """Return one pair a prompt: the highest win rate within the group against the lowest, as a label without doubt.

    The weight is 1, or 0 where the two tie in win rate or were not compared with one another.
    """
    _check_drawn(rollouts, "best_worst")
    highest, lowest = rollouts.win_rates.max(-1, keepdim=True), rollouts.win_rates.min(-1, keepdim=True)
    first, second = highest.indices, lowest.indices
    # Equal sums of win probabilities, added in another order, differ by rounding.
    apart = highest.values - lowest.values > 1e-6
    weights = (apart & _between(rollouts.compared, first, second)).to(rollouts.wins.dtype)
    return Pairs(first, second, torch.ones_like(weights), weights)


def random_pairs(rollouts: Rollouts) -> Pairs:
    """Return K // 2 disjoint pairs of slots of equal weight, (0, 1), (2, 3), …; of each, the likelier winner first.

    This is a random pairing, since the slots are drawn from one policy, independent and alike. The last response of an
    odd group is left out.
    """
    _check_drawn(rollouts, "random")
    pairs = rollouts.wins.shape[-1] // 2
    slots = torch.arange(2 * pairs, device=rollouts.wins.device).view(pairs, 2)
    return _oriented(rollouts, slots, torch.full_like(rollouts.wins[:, 0, :pairs], 1 / pairs))


def all_pairs(rollouts: Rollouts) -> Pairs:
    """Return every pair of slots, the likelier winner first: the fair pairing with the least noise.

    The weight of a pair is 2 / (K (K - 1)), or, when responses are enumerated with probabilities mu
    (``rollouts.weights``), 2 mu_i mu_j: the law of two independent draws. Two draws of one response are left out, and
    the weights sum to 1 - sum mu_i^2; a loss of the margin alone is constant there, while SPPO's, which has a target
    for each response, then weighs response i by mu_i (1 - mu_i).
    """
    size = rollouts.wins.shape[-1]
    _check_size(size)
    slots = torch.combinations(torch.arange(size, device=rollouts.wins.device))
    if rollouts.weights is None:
        weights = torch.full((len(rollouts.wins), len(slots)), 1 / len(slots)).to(rollouts.wins)
    else:
        weights = 2 * rollouts.weights[:, slots].prod(-1)
    return _oriented(rollouts, slots, weights)


PAIRINGS: dict[str, Callable[[Rollouts], Pairs]] = {"best_worst": best_worst, "random": random_pairs, "all": all_pairs}
"""Holds the pairings by the name that a config gives them."""


def gather(logps: Float[Tensor, "batch group"], index: Int[Tensor, "batch pairs"]) -> Float[Tensor, "batch pairs"]:
    """Return one number a response (log-probs, win rates) as one number a pair, with its gradient.

    ``index`` is ``first`` or ``second`` of the pairs.
    """
    return logps.gather(-1, index)


def _oriented(rollouts: Rollouts, slots: Int[Tensor, "pairs 2"], weights: Float[Tensor, "batch pairs"]) -> Pairs:
    """Return the given pairs, each with the likelier winner first; ties keep the order of the slots."""
    first, second = slots.unbind(-1)
    compared = rollouts.compared[:, first, second]
    wins = torch.where(compared, rollouts.wins[:, first, second], 0.5)
    turned = wins < 0.5
    return Pairs(
        first=torch.where(turned, second, first),
        second=torch.where(turned, first, second),
        preference=torch.where(turned, 1 - wins, wins),
        weights=weights * compared,
    )


def _between(matrix: Tensor, first: Int[Tensor, "batch pairs"], second: Int[Tensor, "batch pairs"]) -> Tensor:
    """Return the entries [first, second] of each prompt's matrix."""
    rows = torch.arange(len(first), device=first.device).unsqueeze(-1)
    return matrix[rows, first, second]


def _check_size(size: int) -> None:
    if size < 2:
        raise ValueError(f"pairs need groups of at least two responses, got groups of {size}")


def _check_drawn(rollouts: Rollouts, name: str) -> None:
    _check_size(rollouts.wins.shape[-1])
    if rollouts.weights is not None:
        raise ValueError(f"pairing {name} is for drawn responses, and these are enumerated: use pairing: all")
