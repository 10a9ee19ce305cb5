"""Algorithms: one LightningModule a file, wiring and no mathematics."""

from lit_align.algorithms.base import AlignmentModule
from lit_align.algorithms.wind import WIND

__all__ = ["WIND", "AlignmentModule"]
