"""A run may be stopped by Ctrl-C or SIGTERM at any moment, and says how to go on.

Nothing needs to be written then: what a stage has produced is on disk before the next begins, and every verdict of a
judge with its block. So a signal is an exception wherever the program is, in the loader and in a judge too.
"""

import signal
import sys
from pathlib import Path
from typing import NoReturn

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.iteration.python_config import handed_over
from lit_align.run_folder import RunFolder


class Interrupts(Callback):
    """Prints the command that continues a run, whatever stopped it."""

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        run = RunFolder(Path(trainer.default_root_dir))
        has_begun = (
            run.config.exists() or run.has_begun
        )  # else something was refused, and there is nothing to go on with
        if trainer.is_global_zero and trainer.state.fn == "fit" and has_begun:
            print(f"\nstopped; to go on: {command_to_go_on(run.path)}", file=sys.stderr)


def stop_here(trainer: L.Trainer, signum: int) -> NoReturn:
    """Stop where the program is, rather than after the next minibatch, which sampling may keep waiting for an hour."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would stop the stopping
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(signal.Signals(signum))  # the ranks that this process has started
    raise SystemExit(128 + signum)


def command_to_go_on(run: Path) -> str:
    """Return what to type to continue a run, from its last checkpoint or, before the first, its rollouts."""
    folder = RunFolder(run)
    last = folder.last if folder.written_checkpoints() else None
    if folder.config.exists() and not handed_over(folder.config.read_text()):
        return f"python -m lit_align fit -c {run} " + (f"--ckpt_path {last}" if last else f"--trainer.run {run}")
    return f"Trainer(run={str(run)!r}).fit(module, data" + (f", ckpt_path={str(last)!r})" if last else ")")
