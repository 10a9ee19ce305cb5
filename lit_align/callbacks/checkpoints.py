"""Checkpoints at the ends of iterations: written whole, checked before they are trusted, never fewer than one.

A checkpoint is the archive that ``torch.save`` writes, with a CRC-32 of every record in it. PyTorch does not look at
them when it reads; this does.
"""

import logging
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from lit_align.iteration.module import AlignmentModule
from lit_align.utils.files import replace_link, write_whole

log = logging.getLogger(__name__)

FOLDER, LAST = "checkpoints", "last.ckpt"


class Checkpoints(Checkpoint):
    """Keeps the newest iterations in ``checkpoints/`` of the run folder; ``last.ckpt`` points to the last.

    An older checkpoint goes when a newer one is on disk, so that a run always has one to go on from.

    Args:
        keep: Iterations kept, >= 1; with two, the one before takes over where the last file is damaged.
        every: Iterations between two checkpoints, >= 1. The run's last iteration always has one.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, keep: int = 2, every: int = 1) -> None:
        for name, value in (("keep", keep), ("every", every)):
            if value < 1:
                raise ValueError(f"Checkpoints.{name} must be >= 1, got {value}")
        self.keep = keep
        self.every = every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The module has counted the iteration by now: it is over, and on disk when this returns."""
        assert isinstance(pl_module, AlignmentModule)
        iteration = int(pl_module.iteration)
        if trainer.fast_dev_run or (iteration % self.every and not _is_last(trainer)):  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir) / FOLDER
        path = folder / f"iteration-{iteration:04d}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            replace_link(folder / LAST, path)
            older = sorted((file for file in folder.glob("iteration-*.ckpt") if file < path), reverse=True)
            for old in older[self.keep - 1 :]:
                trainer.strategy.remove_checkpoint(old)


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and reads only what is whole; nothing is unpickled but tensors."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """To disk, under its name only when it is all there."""
        del storage_options
        write_whole(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self, path: Any, map_location: Any = lambda storage, location: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """This checkpoint or, where it is damaged, the one before it.

        Raises:
            ValueError: It is damaged, and there is none before it; or it holds more than data.
        """
        del weights_only
        return super().load_checkpoint(whole_checkpoint(Path(path)), map_location=map_location, weights_only=True)


def run_checkpoints(run: Path) -> list[Path]:
    """Checkpoints of a run, the one written last first, whether they are whole or not."""
    found = [path for path in (run / FOLDER).glob("*.ckpt") if not path.is_symlink()]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def whole_checkpoint(path: Path) -> Path:
    """As :func:`trusted_checkpoint`.

    Raises:
        ValueError: There is no whole one.
    """
    trusted = trusted_checkpoint(path)
    if trusted is None:
        raise ValueError(f"{path} is damaged, and there is no checkpoint before it")
    return trusted


def trusted_checkpoint(path: Path) -> Path | None:
    """The checkpoint itself if it is whole, else the newest one before it that is, which is said.

    Args:
        path: A checkpoint, or ``last.ckpt``.

    Returns:
        None where there is no whole one.

    Raises:
        FileNotFoundError: There is no such file, nor ever was.
        ValueError: It holds objects that only code of its own could make.
    """
    if path.name == LAST:
        candidates = run_checkpoints(path.parent.parent) if path.parent.name == FOLDER else [path]
    elif path.exists():
        before = sorted(path.parent.glob("iteration-*.ckpt"), reverse=True)
        candidates = [path, *(file for file in before if file.name < path.name)]
    else:
        candidates = []
    if not candidates:
        there = ", ".join(file.name for file in sorted(path.parent.glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"ckpt_path: there is no checkpoint {path} (in its folder: {there})")
    for candidate in candidates:
        if is_whole(candidate):
            return candidate
        log.warning("%s is damaged: the checkpoint before it is used", candidate)
    return None


def is_whole(path: Path) -> bool:
    """Whether all records of a checkpoint have the checksums they were written with; a folder of shards is not read."""
    if path.is_dir():
        return True
    state = path.stat()
    return _is_whole(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _is_whole(path: Path, size: int, written: int) -> bool:
    """Read once, however often it is asked: checkpoints are large."""
    del size, written
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
        if whole:  # what lists the records has no checksum of its own
            torch.load(path, map_location="meta", mmap=True, weights_only=True)
        return whole
    except Exception as error:  # a damaged archive fails in any way there is
        if type(error).__name__ == "UnpicklingError":  # nothing is wrong with the file
            raise ValueError(f"{path} is refused: it holds objects that only code in it could make") from error
        return False


def _is_last(trainer: L.Trainer) -> bool:
    """Whether no iteration follows."""
    out_of_steps = 0 < trainer.max_steps <= trainer.global_step
    return trainer.should_stop or out_of_steps or trainer.current_epoch + 1 == trainer.max_epochs
