"""How the learning rate goes over one optimisation problem: an iteration, or the whole run."""

import math
from functools import partial
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: Schedule, again: bool = True) -> float:
    """What the learning rate is multiplied by in a step.

    Args:
        step: Optimiser steps done so far.
        steps: Length of one problem, in optimiser steps.
        warmup: Steps of linear rise at its start.
        schedule: What follows: constant, or down to 0 (which the step after the last would reach).
        again: Start again after ``steps`` steps, rather than stay where the last of them was.

    Returns:
        In (0, 1]; never 0, since a step that moves nothing is wasted.
    """
    place = step % steps if again else min(step, max(steps - 1, warmup))
    if place < warmup:
        return (place + 1) / (warmup + 1)
    left = (steps - place) / (steps - warmup) if steps > warmup else 1.0
    if schedule == "linear":
        return left
    if schedule == "cosine":
        return (1 - math.cos(math.pi * left)) / 2
    return 1.0


def scheduled(optimizer: Optimizer, *, steps: int, warmup: int, schedule: Schedule, again: bool) -> dict[str, Any]:
    """What Lightning wants to hear of an optimiser whose learning rate follows :func:`learning_rate_factor`."""
    factor = partial(learning_rate_factor, steps=steps, warmup=warmup, schedule=schedule, again=again)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}
