"""Data that a module cannot take are refused before anything of the run is on disk."""

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.data.base import IterationData
from lit_align.iteration.module import AlignmentModule


class DataCheck(Callback):
    """Lets a module meet its data first of all: a run that is refused leaves nothing that another could go on with."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(pl_module, AlignmentModule) and isinstance(data, IterationData):
            pl_module.meet(data, fits=stage == "fit")
