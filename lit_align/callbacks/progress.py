"""Progress bars show the stages of an iteration, and the one that Lightning's own loop runs: training."""

from contextlib import ExitStack
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, ProgressBar
from typing_extensions import override

from lit_align.iteration.iterated import iterated
from lit_align.iteration.stages import Advance
from lit_align.types import Rollouts


class StageBars(ProgressBar):
    """Shows a bar for each of the module's stages (sample, judge, score, train, evaluate)."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        iterated(pl_module).stages.visible = self._enabled and trainer.is_global_zero


class TrainStage(Callback):
    """Times training like every other stage; the module times those that it runs itself."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._advance: Advance | None = None

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        total = int(trainer.num_training_batches) * getattr(trainer.datamodule, "batch_size", 1)  # type: ignore[attr-defined]
        self._advance = self._open.enter_context(iterated(pl_module).stages.stage("train", total))

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a minibatch; after the last one the evaluation begins."""
        assert self._advance is not None
        self._advance(len(batch), int(batch.responses.mask.sum()) if isinstance(batch, Rollouts) else 0)
        if batch_idx + 1 >= trainer.num_training_batches:
            self._open.close()

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._open.close()
