"""Checkpoints at the ends of iterations are written whole and checked before they are trusted."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lit_align.iteration.iterated import iterated
from lit_align.run_folder import RunFolder, earlier_checkpoints, whole_checkpoint
from lit_align.utils.arguments import check_finite
from lit_align.utils.files import replace_link, write_whole


class Checkpoints(Checkpoint):
    """Keeps the newest iterations in ``checkpoints/`` of the run folder; ``last.ckpt`` points to the last.

    An older checkpoint goes when a newer one is on disk, so that a run always has one to go on from.

    Args:
        keep: Iterations kept, >= 1; with two, the one before takes over where the last file is damaged.
        every: Iterations between two checkpoints, >= 1. The run's last iteration always has one.
    """

    def __init__(self, keep: int = 2, every: int = 1) -> None:
        check_finite("Checkpoints", {"keep": keep, "every": every})
        for name, value in (("keep", keep), ("every", every)):
            if value < 1:
                raise ValueError(f"Checkpoints.{name} must be >= 1, got {value}")
        self.keep = keep
        self.every = every

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the iteration, which the module has counted by now: it is on disk when this returns."""
        iteration = int(iterated(pl_module).iteration)
        if trainer.fast_dev_run or (iteration % self.every and not _is_last(trainer)):  # type: ignore[attr-defined]
            return
        run = RunFolder(Path(trainer.default_root_dir))
        path = run.checkpoint(iteration)
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            replace_link(run.last, path)
            for old in earlier_checkpoints(path)[self.keep - 1 :]:
                trainer.strategy.remove_checkpoint(old)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads only what is whole; nothing is unpickled but tensors."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        del storage_options
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return this checkpoint or, where it is damaged, the one before it.

        Raises:
            ValueError: It is damaged, and there is none before it; or it holds more than data.
        """
        del weights_only
        return super().load_checkpoint(whole_checkpoint(Path(path)), map_location=map_location, weights_only=True)


def _is_last(trainer: L.Trainer) -> bool:
    """Return whether no iteration follows."""
    out_of_steps = 0 < trainer.max_steps <= trainer.global_step
    return trainer.should_stop or out_of_steps or trainer.current_epoch + 1 == trainer.max_epochs
