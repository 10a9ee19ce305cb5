"""What watches a run: progress bars, the record it leaves, predictions on disk."""

from lit_align.callbacks.interrupts import Interrupts
from lit_align.callbacks.memory_check import MemoryCheck
from lit_align.callbacks.predictions import Predictions
from lit_align.callbacks.progress import StageBars
from lit_align.callbacks.run_record import RunRecord

__all__ = ["Interrupts", "MemoryCheck", "Predictions", "RunRecord", "StageBars"]
