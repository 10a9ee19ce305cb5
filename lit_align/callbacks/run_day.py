"""A chat template that writes the date writes that of the day on which the run began, whenever it goes on."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule
from lit_align.run_folder import RunFolder
from lit_align.utils.files import write_text


class RunDay(Callback):
    """Tells the policy what day it is: the same for ever, so that a run that goes on asks the same prompts.

    It is the day that the run folder says, else that of the recorded run whose responses are replayed, else that of the
    checkpoint that is gone on from or looked at, which may have left its run folder; a new run begins today.
    """

    def __init__(self) -> None:
        self.is_new = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Nothing has been encoded yet."""
        if isinstance(pl_module, AlignmentModule):
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            known = RunFolder(Path(trainer.default_root_dir)).began
            known = data.day if known is None and isinstance(data, IterationData) else known
            told, self.is_new = trainer.strategy.broadcast(((known or date.today()).isoformat(), known is None))
            pl_module.policy.begin_on(date.fromisoformat(told))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Encode again as on the day of the checkpoint what a new folder was encoded for as of today."""
        day = checkpoint.get("identity", {}).get("day")
        if not self.is_new or day is None or not isinstance(pl_module, AlignmentModule):
            return
        pl_module.policy.begin_on(date.fromisoformat(day))
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, IterationData):
            data.encode = None
            pl_module.meet(data, fits=trainer.state.fn == "fit")
        path = RunFolder(Path(trainer.default_root_dir)).identity
        if path.exists() and trainer.is_global_zero:
            write_text(path, json.dumps(json.loads(path.read_text()) | {"day": day}, indent=2) + "\n")
