"""Measures of a policy, each a torchmetrics class: they reduce over ranks and carry their uncertainty."""

from lit_align.evaluation.diversity import DistinctN
from lit_align.evaluation.heldout import HeldOut
from lit_align.evaluation.win_rate import WinRate

__all__ = ["DistinctN", "HeldOut", "WinRate"]
