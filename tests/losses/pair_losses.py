"""Pair losses behind one signature, with arguments that put every term to work."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_align.losses import (
    aipo,
    alpha_dpo,
    chi_po,
    exo_pairwise,
    ipo_mean,
    minor_dpo,
    mpo,
    orpo,
    rpo,
    rpo_mean,
    simpo,
    xpo,
)

LENGTHS = torch.tensor([3, 1, 4, 2, 6]), torch.tensor([2, 5, 4, 1, 3])


@dataclass(frozen=True)
class PairLoss:
    """A loss as a function of policy chosen, policy rejected, reference chosen, reference rejected.

    Attributes:
        loss: The function.
        options: Its hyper-parameters.
        refused: Hyper-parameter -> values it has to refuse.
        reference: It has a reference.
        lengths: It divides by lengths.
        explored: It takes the log-probs of the reference's response, here the rejected one of the first order.
    """

    loss: Callable[..., Tensor]
    options: dict[str, float]
    refused: dict[str, list[float]] = field(default_factory=dict)
    reference: bool = True
    lengths: bool = False
    explored: bool = False

    def __call__(self, *rows: Tensor, swapped: bool = False, **options: Any) -> Tensor:
        """The loss, of these pairs or of the same ones the other way round."""
        chosen, rejected = (length[: len(rows[0])] for length in LENGTHS)
        explored = rows[1]
        if swapped:
            rows = rows[1], rows[0], rows[3], rows[2]
            chosen, rejected = rejected, chosen
        if self.lengths:
            options |= {"chosen_lengths": chosen, "rejected_lengths": rejected}
        if self.explored:
            options |= {"explored_logps": explored}
        return self.loss(*(rows if self.reference else rows[:2]), **(self.options | options))


POSITIVE, NOT_NEGATIVE = [0.0, -1.0, float("nan")], [-0.1, float("nan")]
MARGIN = {"margin_mean": 0.3, "margin_std": 0.8}
PAIR_LOSSES = {
    "aipo": PairLoss(
        aipo,
        {"beta": 0.2, "alpha": 0.3, "nll_weight": 0.4},
        {"beta": POSITIVE, "alpha": NOT_NEGATIVE, "nll_weight": NOT_NEGATIVE},
        lengths=True,
    ),
    "alpha_dpo": PairLoss(
        alpha_dpo,
        {"beta": 2.0, "gamma": 0.7, "alpha": 0.3, **MARGIN},
        {"beta": POSITIVE, "gamma": NOT_NEGATIVE, "alpha": NOT_NEGATIVE, "margin_std": POSITIVE},
        lengths=True,
    ),
    "chi_po": PairLoss(chi_po, {"beta": 0.2, "r_max": 1e3}, {"beta": POSITIVE, "r_max": POSITIVE}),
    "exo_pairwise": PairLoss(
        exo_pairwise, {"beta": 0.2, "eps": 0.1}, {"beta": POSITIVE, "eps": [0.0, -0.1, 0.5, float("nan")]}
    ),
    "ipo_mean": PairLoss(ipo_mean, {"tau": 0.4}, {"tau": POSITIVE}, lengths=True),
    "minor_dpo": PairLoss(minor_dpo, {"beta": 0.2}, {"beta": POSITIVE}),
    "mpo": PairLoss(mpo, {}, reference=False),
    "orpo": PairLoss(orpo, {"odds_weight": 0.3}, {"odds_weight": NOT_NEGATIVE}, reference=False, lengths=True),
    "rpo": PairLoss(rpo, {"beta": 0.2, "eta": 0.3}, {"beta": POSITIVE, "eta": NOT_NEGATIVE}),
    "rpo_mean": PairLoss(rpo_mean, {"beta": 0.2, "eta": 0.3}, {"beta": POSITIVE, "eta": NOT_NEGATIVE}, lengths=True),
    "simpo": PairLoss(
        simpo,
        {"beta": 2.0, "gamma": 0.7},
        {"beta": POSITIVE, "gamma": NOT_NEGATIVE},
        reference=False,
        lengths=True,
    ),
    "xpo": PairLoss(xpo, {"beta": 0.2, "alpha": 0.3}, {"beta": POSITIVE, "alpha": NOT_NEGATIVE}, explored=True),
}


def columns(count: int = 5) -> list[Tensor]:
    """Log-probs of the four kinds, near one another."""
    base = -20 * torch.rand(2, count)
    return [*(base + torch.randn(2, count)), *base]
