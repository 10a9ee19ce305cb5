"""The Trainer is Lightning's with what an iteration needs, and one run folder that everything lies in."""

import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import CheckpointIO
from typing_extensions import override

from lit_align.callbacks.checkpoints import Checkpoints, WholeFiles
from lit_align.callbacks.collapse import CollapseAlarm
from lit_align.callbacks.data_check import DataCheck
from lit_align.callbacks.interrupts import Interrupts, stop_here
from lit_align.callbacks.memory_check import MemoryCheck
from lit_align.callbacks.one_folder import OneFolder, is_first_process
from lit_align.callbacks.predictions import Predictions
from lit_align.callbacks.profile import Profile
from lit_align.callbacks.progress import StageBars, TrainStage
from lit_align.callbacks.run_day import RunDay
from lit_align.callbacks.same_run import SameRun
from lit_align.compat import keep_batches_as_they_are, on_sigterm
from lit_align.plan.command import ConfiguredTrainer, Planner
from lit_align.runs.record import RunRecord
from lit_align.utils.arguments import check_finite
from lit_align.utils.out_of_memory import OutOfMemory, is_out_of_memory

_ADVICE = (
    "training: halve data.batch_size and double trainer.accumulate_grad_batches (the same steps in smaller parts), set "
    "model.policy.gradient_checkpointing to true, or train adapters (model.policy.lora)"
)


class Trainer(L.Trainer, Planner):
    """Sets up Lightning's Trainer so that one epoch is one iteration.

    Rollouts are collected anew each epoch, nothing is evaluated before the first, no sampler is injected (ranks share
    prompts themselves), and loggers, checkpoints, rollouts and metrics share one folder.

    Args:
        default_root_dir: A new run folder, named by the time, is made under it; one, however many processes there are.
        run: An existing run folder to go on with, instead of a new one.
        logger: True for TensorBoard in the run folder, False for none, or loggers of your own beside it, such as
            ``WandbLogger``.
        callbacks: Added to our own (progress bars, run record, collapse alarm, checkpoints); one of the same class
            given here replaces ours, such as ``Checkpoints(every=10)``; any other for checkpoints does so too.
        max_epochs: Iterations.
        enable_progress_bar: Show a bar for each stage.
        enable_checkpointing: Keep the last two iterations in ``checkpoints/``.
        log_every_n_steps: Optimiser steps between two entries of the logger.
        profile: Print what each stage of the last iteration took, in seconds and as a share of the device's peak.
        plugins: Added to our own (checkpoints that are written whole and checked); a ``CheckpointIO`` replaces it.
        check_memory: Refuse a run whose plan (``python -m lit_align plan``) is of more than 1.5 times the device's
            memory, before its weights load; warn where it is of more than that memory.
        kwargs: Further arguments of Lightning's Trainer.
    """

    def __init__(
        self,
        *,
        default_root_dir: str | Path = "runs",
        run: str | Path | None = None,
        logger: Logger | list[Logger] | bool | None = True,
        callbacks: list[Callback] | Callback | None = None,
        max_epochs: int = 3,
        enable_progress_bar: bool = True,
        enable_checkpointing: bool = True,
        log_every_n_steps: int = 1,
        profile: bool = False,
        plugins: Any | None = None,
        check_memory: bool = True,
        **kwargs: Any,
    ) -> None:
        check_finite("Trainer", {**kwargs, "max_epochs": max_epochs, "log_every_n_steps": log_every_n_steps})
        _check_clipping(kwargs.get("gradient_clip_val"))
        if run is not None and not Path(run).is_dir():
            raise FileNotFoundError(f"trainer.run: there is no run folder {run}")
        # A judge may change the working directory: the run stays where it began.
        folder = Path(run).absolute() if run is not None else _new_folder(Path(default_root_dir).absolute())
        given = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or [])
        ours: list[Callback] = [
            OneFolder(),
            RunDay(),
            DataCheck(),
            TrainStage(),
            SameRun(),
            RunRecord(),
            Predictions(),
            Interrupts(),
        ]
        ours.append(CollapseAlarm())
        if profile:
            ours.insert(1, Profile())  # it reads the clocks that the record then books
        if enable_progress_bar:
            ours.insert(1, StageBars())
        if enable_checkpointing:
            ours.append(Checkpoints())
        if check_memory:
            ours.append(MemoryCheck())
        kept = [callback for callback in ours if not any(_replaces(other, callback) for other in given)]
        super().__init__(
            default_root_dir=folder,
            logger=_loggers(folder, logger),
            callbacks=[*kept, *given],
            max_epochs=max_epochs,
            enable_progress_bar=enable_progress_bar,
            enable_checkpointing=enable_checkpointing,
            log_every_n_steps=log_every_n_steps,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            enable_model_summary=False,
            plugins=_with_whole_files(plugins),
            **kwargs,
        )
        on_sigterm(self, stop_here)
        _check_precision(self)
        keep_batches_as_they_are(self)

    @override
    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Fit as Lightning does.

        Raises:
            OutOfMemory: A training step does not fit: to halve it would change what is summed, and so the run.
        """
        try:
            super().fit(*args, **kwargs)
        except Exception as error:
            if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
                raise
            raise OutOfMemory(f"out of memory {_ADVICE}") from error

    @override
    def configured(self) -> ConfiguredTrainer:
        options = {
            "accelerator": self.strategy.root_device.type,
            "devices": self.num_devices,
            "num_nodes": self.num_nodes,
            "strategy": self.strategy,
            "precision": self.precision,
            "max_epochs": self.max_epochs,
            "accumulate_grad_batches": self.accumulate_grad_batches,
        }
        return ConfiguredTrainer(options)


def _check_clipping(value: float | None) -> None:
    """Refuse a bound that is no bound: a negative one would turn every gradient round."""
    if value is not None and value < 0:
        raise ValueError(f"trainer.gradient_clip_val must be >= 0, got {value}; null clips nothing")


def _check_precision(trainer: L.Trainer) -> None:
    if str(trainer.precision) in ("bf16-true", "16-true"):
        raise ValueError(
            f"trainer.precision {trainer.precision} would round log-probs too: set model.policy.dtype to bfloat16 for "
            "the weights alone, or trainer.precision to bf16-mixed"
        )


def _replaces(given: Callback, ours: Callback) -> bool:
    return isinstance(given, Checkpoint if isinstance(ours, Checkpoint) else type(ours))


def _with_whole_files(plugins: Any) -> list[Any]:
    given = [] if plugins is None else list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [WholeFiles(), *given]


def _loggers(folder: Path, logger: Logger | list[Logger] | bool | None) -> list[Logger]:
    if logger is False:
        return []
    theirs = [logger] if isinstance(logger, Logger) else logger if isinstance(logger, list) else []
    return [TensorBoardLogger(folder, name="", version="", default_hp_metric=False), *theirs]


def _new_folder(parent: Path) -> Path:
    if not is_first_process():
        return parent  # the first process will tell which folder it has made
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", *(f"-{n}" for n in range(1, 1000))):
        folder = parent / f"{stamp}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{parent / stamp} and a thousand like it exist")
