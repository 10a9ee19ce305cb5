"""The learning rate follows a schedule over one optimisation problem: an iteration, or the whole run."""

import math
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lit_align.models.sharding.gather import trainable

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(step: int, *, steps: int, warmup: int, schedule: Schedule, again: bool = True) -> float:
    """Return what the learning rate is multiplied by in a step, in (0, 1]; 0 would be a step that moves nothing.

    Args:
        step: Optimiser steps done so far.
        steps: Length of one problem, in optimiser steps.
        warmup: Steps of linear rise at its start.
        schedule: What follows: constant, or down to 0 (which the step after the last would reach).
        again: Start again after ``steps`` steps, rather than stay where the last of them was.
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
    """Return what Lightning wants of an optimiser whose learning rate follows :func:`learning_rate_factor`."""
    factor = partial(learning_rate_factor, steps=steps, warmup=warmup, schedule=schedule, again=again)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def named(state: dict[str, Any], optimizer: Optimizer, network: nn.Module) -> dict[str, Any]:
    """Return an optimiser's state dict with names in the place of numbers; it is empty on the ranks that save nothing.

    Numbers count the optimiser's parameters on a single device and those of the whole network, frozen ones included,
    where a sharded one was gathered: with adapters the two differ. Optimisers load either names or numbers.
    """
    if not state:
        return state
    names = {id(parameter): name for name, parameter in trainable(network)}
    pairs = list(zip(state["param_groups"], optimizer.param_groups, strict=True))
    name_of = {
        number: names[id(parameter)]
        for saved, group in pairs
        for number, parameter in zip(saved["params"], group["params"], strict=True)
    }
    return {
        **state,
        "state": {name_of[number]: value for number, value in state["state"].items()},
        "param_groups": [{**saved, "params": [name_of[number] for number in saved["params"]]} for saved, _ in pairs],
    }
