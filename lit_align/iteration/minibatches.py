"""An iteration's rollouts are cut into minibatches, each with the true weight of its optimiser step."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from lit_align.types import Rollouts


class Minibatches(Dataset[Rollouts]):
    """Holds minibatches of rollouts; each is trimmed to its own longest prompt and response.

    All rollouts are ordered first, the same on every rank, and cut into optimiser steps; of a step's rows each rank
    takes its own. A step's gradient is (sum of weighted losses) / (sum of weights) over *all* its minibatches and
    ranks. Each minibatch carries that denominator, so neither splitting a batch nor sharing it changes anything.

    Args:
        rollouts: All rollouts of the iteration, the same on every rank.
        weights: Loss weight of each prompt: how many loss terms it gives.
        batch_size: Prompts in a minibatch, on one rank.
        passes: Times the rollouts are gone through, each in an order of its own.
        window: Minibatches in one optimiser step on one rank (``trainer.accumulate_grad_batches``).
        seed: The seed of the order.
        rank: The rank whose minibatches these are, in [0, world_size).
        world_size: Ranks whose gradients are averaged.
        phases: Fits on the same rollouts, one after the other, each of so many passes.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        weights: Float[Tensor, " batch"],
        *,
        batch_size: int,
        passes: int = 1,
        window: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        phases: int = 1,
    ) -> None:
        self.rollouts = rollouts
        self.phases = phases
        generator = torch.Generator().manual_seed(seed)
        order = torch.cat([torch.randperm(len(rollouts), generator=generator) for _ in range(passes * phases)])
        together = order.split(batch_size * world_size)  # all ranks work on one of these at a time
        self.batches = [rows[rank * batch_size : (rank + 1) * batch_size] for rows in together]
        totals = torch.stack([weights[rows].sum() for rows in order.split(batch_size * world_size * window)])
        # A step without a single comparison has no gradient, rather than 0/0.
        totals = totals.masked_fill(totals == 0, torch.inf)
        # Lightning divides the loss by the number of minibatches and averages gradients over ranks.
        self.window_weights = (totals / (window * world_size)).repeat_interleave(window).tolist()

    def __len__(self) -> int:
        return len(self.batches)

    @override
    def __getitem__(self, index: int) -> Rollouts:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self.rollouts.select(self.batches[index].tolist())
        phase = index * self.phases // len(self)
        return replace(rows.trim(), window_weight=self.window_weights[index], phase=phase)
