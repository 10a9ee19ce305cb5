"""A chat template that writes the date writes that of the day on which the run began, whenever it goes on."""

from datetime import date
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.run_folder import RunFolder


class RunDay(Callback):
    """Tells the policy what day it is: the same for ever, so that a run that goes on asks the same prompts.

    It is the day that the run folder says, else that of the checkpoint that is looked at, else that of the recorded run
    whose responses are replayed; a new run begins today.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing has been encoded yet."""
        if isinstance(pl_module, AlignmentModule):
            day = trainer.strategy.broadcast(_first_day(trainer).isoformat())
            pl_module.policy.begin_on(date.fromisoformat(day))


def _first_day(trainer: L.Trainer) -> date:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    day = RunFolder(Path(trainer.default_root_dir)).began
    if day is None and trainer.ckpt_path is not None:
        day = _day_of(Path(trainer.ckpt_path))
    if day is None and isinstance(data, IterationData):
        day = data.day
    return day or date.today()


def _day_of(checkpoint: Path) -> date | None:
    """The day on which the run of a checkpoint began, which may have left its run folder."""
    if checkpoint.is_file():
        identity = torch.load(checkpoint, map_location="meta", mmap=True, weights_only=True).get("identity", {})
        if "day" in identity:
            return date.fromisoformat(identity["day"])
    return RunFolder.around(checkpoint).began
