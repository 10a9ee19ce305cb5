"""A pair loss behind one signature, with arguments that put every term to work; its law test declares it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

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


def columns(count: int = 5) -> list[Tensor]:
    """Log-probs of the four kinds, near one another."""
    base = -20 * torch.rand(2, count)
    return [*(base + torch.randn(2, count)), *base]
