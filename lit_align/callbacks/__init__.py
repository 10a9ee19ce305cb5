"""What watches a run: progress bars, the record it leaves, predictions on disk, an alarm."""

from lit_align.callbacks.collapse import CollapseAlarm
from lit_align.callbacks.interrupts import Interrupts
from lit_align.callbacks.memory_check import MemoryCheck
from lit_align.callbacks.one_folder import OneFolder
from lit_align.callbacks.predictions import Predictions
from lit_align.callbacks.profile import Profile
from lit_align.callbacks.progress import StageBars, TrainStage
from lit_align.callbacks.run_record import RunRecord

__all__ = [
    "CollapseAlarm",
    "Interrupts",
    "MemoryCheck",
    "OneFolder",
    "Predictions",
    "Profile",
    "RunRecord",
    "StageBars",
    "TrainStage",
]
