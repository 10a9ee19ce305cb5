"""The machinery of runs asks this of a module that trains in iterations, whatever it trains."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning as L
from torch import Tensor

from lit_align.iteration.stages import Stages


@runtime_checkable
class Iterated(Protocol):
    """Describes a LightningModule whose epochs are iterations: callbacks and records of a run need no more of it.

    Its checkpoints are Lightning's; what it keeps beside its weights is its own affair.

    Attributes:
        iteration: Iterations completed, one integer; a buffer, so that checkpoints have it.
        history: The rows of the run's table, one an iteration, from iteration 0: metric -> value.
        stages: Clock and progress bars.
    """

    iteration: Tensor
    history: list[dict[str, float]]
    stages: Stages

    def made_of(self) -> dict[str, str]:
        """Return short digests, by name, of what is trained, before weights load: a run goes on with the same alone."""

    def export(self, folder: Path) -> None:
        """Write what was trained in a format that others read; all ranks call it together."""


def iterated(module: L.LightningModule) -> Iterated:
    """Return the module, seen as what the machinery of runs needs; refuse one that does not train in iterations."""
    if not isinstance(module, Iterated):
        raise TypeError(
            f"{type(module).__name__} does not train in iterations: it needs what lit_align's Iterated lists"
        )
    return module
