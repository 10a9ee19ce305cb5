"""An algorithm with the loss it has to have, which is written out once more in plain arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lit_align
from tests.algorithms.formulas import Formula


@dataclass(frozen=True)
class Case:
    """An algorithm and what its loss is.

    Attributes:
        name: Of the algorithm's class.
        options: Hyper-parameters.
        formula: Weighted loss of a prompt, of all prompts of an iteration.
        start: The same where policy, anchor and reference are one.
        slots: Who draws each response of the group.
        anchor: Makes its anchor, where it takes one.
        refused: Hyper-parameters it refuses.
        compares: The loss reads comparisons, and not rewards alone.
    """

    name: str
    options: dict[str, Any]
    formula: Formula
    start: Formula
    slots: tuple[str, ...] = ("policy", "policy")
    anchor: Callable[[], Any] | None = None
    refused: dict[str, list[float]] = field(default_factory=dict)
    compares: bool = True

    @property
    def algorithm(self) -> Any:
        """Its class."""
        return getattr(lit_align, self.name)

    @property
    def roles(self) -> bool:
        """Slots of several sources."""
        return len(set(self.slots)) > 1


PAIRS = {"pairing": "all"}  # both orders of the label, with their probabilities
BETA, BETA_ETA = {"beta": [0.0, -1.0]}, {"beta": [0.0, -1.0], "eta": [-0.1]}
