"""Algorithms: one LightningModule a file, wiring and no mathematics."""

from lit_align.algorithms.accelerated_po import AcceleratedPO
from lit_align.algorithms.base import AlignmentModule
from lit_align.algorithms.bond import IterativeBOND
from lit_align.algorithms.dpo import DPO
from lit_align.algorithms.evaluator import HeldOutEvaluator
from lit_align.algorithms.exact_evaluator import ExactEvaluator
from lit_align.algorithms.inpo import INPO
from lit_align.algorithms.jbond import JBOND
from lit_align.algorithms.nash_md import NashMD
from lit_align.algorithms.onpo import ONPO
from lit_align.algorithms.sppo import SPPO
from lit_align.algorithms.wind import WIND

__all__ = [
    "DPO",
    "INPO",
    "JBOND",
    "ONPO",
    "SPPO",
    "WIND",
    "AcceleratedPO",
    "AlignmentModule",
    "ExactEvaluator",
    "HeldOutEvaluator",
    "IterativeBOND",
    "NashMD",
]
