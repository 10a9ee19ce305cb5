"""What a run says when it is stopped before its end."""

import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback


class Interrupts(Callback):
    """Prints the command that continues a run, whatever stopped it."""

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Nothing is lost: rollouts and checkpoints are on disk already."""
        if not trainer.is_global_zero or trainer.state.fn != "fit":
            return
        folder = Path(trainer.default_root_dir)
        checkpoint = folder / "checkpoints" / "last.ckpt"
        how = f"--ckpt_path {checkpoint}" if checkpoint.exists() else f"--trainer.run {folder}"
        print(f"\nstopped; to go on: python -m lit_align fit -c {folder} {how}", file=sys.stderr)
