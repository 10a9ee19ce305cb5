"""Callbacks watch a run: progress bars, checkpoints, predictions on disk, alarms. A config can name each of them."""

from lit_align import __getattr__ as __getattr__  # public names of this room, as `lit_align` has them
