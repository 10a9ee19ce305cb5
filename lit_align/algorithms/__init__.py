"""Algorithms: one LightningModule a file, wiring and no mathematics."""

from lit_align.algorithms.accelerated_po import AcceleratedPO
from lit_align.algorithms.aipo import AIPO
from lit_align.algorithms.alpha_dpo import AlphaDPO
from lit_align.algorithms.base import AlignmentModule
from lit_align.algorithms.bond import IterativeBOND
from lit_align.algorithms.chi_po import ChiPO
from lit_align.algorithms.dpo import DPO, RobustDPO
from lit_align.algorithms.evaluator import HeldOutEvaluator
from lit_align.algorithms.exact_evaluator import ExactEvaluator
from lit_align.algorithms.exo import EXO, EXOPairwise
from lit_align.algorithms.inpo import INPO
from lit_align.algorithms.ipo import IPO
from lit_align.algorithms.jbond import JBOND
from lit_align.algorithms.minor_dpo import MinorDPO
from lit_align.algorithms.mpo import MPO
from lit_align.algorithms.nash_md import NashMD
from lit_align.algorithms.onpo import ONPO
from lit_align.algorithms.rpo import RPO
from lit_align.algorithms.simpo import SimPO
from lit_align.algorithms.sppo import SPPO
from lit_align.algorithms.wind import WIND
from lit_align.algorithms.xpo import XPO

__all__ = [
    "AIPO",
    "DPO",
    "EXO",
    "INPO",
    "IPO",
    "JBOND",
    "MPO",
    "ONPO",
    "RPO",
    "SPPO",
    "WIND",
    "XPO",
    "AcceleratedPO",
    "AlignmentModule",
    "AlphaDPO",
    "ChiPO",
    "EXOPairwise",
    "ExactEvaluator",
    "HeldOutEvaluator",
    "IterativeBOND",
    "MinorDPO",
    "NashMD",
    "RobustDPO",
    "SimPO",
]
