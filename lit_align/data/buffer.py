"""An iteration's rollouts as minibatches, with the true weight of the optimiser step each belongs to."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from lit_align.types import Rollouts


class Buffer(Dataset[Rollouts]):
    """Minibatches of rollouts; ``buffer[i]`` is one, trimmed to its own longest prompt and response.

    A step's gradient is (sum of weighted losses) / (sum of weights) over *all* its minibatches and ranks. Each
    minibatch carries that denominator, so splitting a batch changes nothing.

    Args:
        rollouts: All rollouts of the iteration on this rank.
        weights: Loss weight of each prompt: how many loss terms it gives.
        batch_size: Prompts in a minibatch.
        passes: Times the rollouts are gone through, each in an order of its own.
        window: Minibatches in one optimiser step (``accumulate_grad_batches``).
        seed: Of the order.
        mean_over_ranks: Averages a tensor over devices.
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
        mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
        phases: int = 1,
    ) -> None:
        self.rollouts = rollouts
        self.phases = phases
        generator = torch.Generator().manual_seed(seed)
        order = torch.cat([torch.randperm(len(rollouts), generator=generator) for _ in range(passes * phases)])
        self.batches = order.split(batch_size)
        totals = torch.stack([weights[torch.cat(step)].sum() for step in _chunks(self.batches, window)])
        if mean_over_ranks is not None:
            totals = mean_over_ranks(totals)
        # A step without a single comparison has no gradient, rather than 0/0.
        totals = totals.masked_fill(totals == 0, torch.inf)
        # Lightning divides the loss by the number of minibatches and averages gradients over ranks.
        self.window_weights = (totals / window).repeat_interleave(window).tolist()

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Rollouts:
        """One minibatch."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rows = self.rollouts.select(self.batches[index].tolist())
        phase = index * self.phases // len(self)
        return replace(rows.trim(), window_weight=self.window_weights[index], phase=phase)


def _chunks(items: tuple[Tensor, ...], size: int) -> list[tuple[Tensor, ...]]:
    return [items[i : i + size] for i in range(0, len(items), size)]
