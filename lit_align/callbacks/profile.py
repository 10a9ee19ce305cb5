"""A profile tells where an iteration's time goes, and what share of the machine's peak each stage reached."""

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from typing_extensions import override

from lit_align.data.rollout_store import load_rollouts
from lit_align.iteration.module import AlignmentModule
from lit_align.models.language_model import LanguageModel
from lit_align.plan.flops import Work, peak, work_of
from lit_align.types import SCORED, Responses, Rollouts

STAGES = ("sample", "judge", "score", "train", "evaluate")


class Profile(Callback):
    """Prints the profile of the run's last iteration, on this device.

    The share of peak is useful work (2 operations a weight and token forward, as many again for each gradient; no
    attention, no padding) over what a large matrix product reaches in the same dtype, measured at the end of the run.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.operations: dict[str, float] = {}

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if not isinstance(pl_module, AlignmentModule) or not isinstance(pl_module.policy, LanguageModel):
            raise ValueError("--profile counts the work of a LanguageModel, and this run has none: leave it out")

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        rollouts, work = pl_module.rollouts, _work(pl_module)
        scored = len(rollouts.token_logps.keys() & set(SCORED))
        repeats = trainer.datamodule.passes * pl_module.phases  # type: ignore[attr-defined]
        whole = {
            "sample": work.sampling(rollouts.responses),
            "score": scored * work.scoring(rollouts.responses),
            "train": repeats * work.training(rollouts.responses),
        }
        self.operations = {name: value / trainer.world_size for name, value in whole.items()}

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read the clocks of this iteration, before they are booked and start again."""
        assert isinstance(pl_module, AlignmentModule)
        self.seconds = {name: pl_module.stages.seconds[name] for name in STAGES if name in pl_module.stages.seconds}
        held_out = _held_out(pl_module)
        if held_out is not None:
            work = _work(pl_module)
            self.operations["evaluate"] = work.sampling(held_out) + work.scoring(held_out)

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AlignmentModule)
        if trainer.is_global_zero and self.seconds:
            policy = pl_module.policy
            Console(width=100).print(self.table(peak(policy.dtype, policy.device)))  # type: ignore[arg-type]

    def table(self, fastest: float) -> Table:
        """Return the stages with their seconds, share of the iteration, and share of the peak.

        Args:
            fastest: Operations a second of a large matrix product.
        """
        table = Table(title=f"profile of the last iteration (peak: a product at {fastest / 1e9:.0f} GFLOP/s)")
        for heading in ("stage", "seconds", "share of time", "GFLOP", "share of peak"):
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        whole = sum(self.seconds.values())
        for name, seconds in self.seconds.items():
            operations = self.operations.get(name)
            shares = (
                ("-", "-") if not operations else (f"{operations / 1e9:.0f}", f"{operations / fastest / seconds:.0%}")
            )
            table.add_row(name, f"{seconds:.2f}", f"{seconds / whole:.0%}", *shares)
        return table


def _work(module: AlignmentModule) -> Work:
    policy = module.policy
    assert isinstance(policy, LanguageModel)
    return work_of(policy.model, policy.model.get_output_embeddings())


def _held_out(module: AlignmentModule) -> Responses | None:
    """Return what was drawn in the evaluation of this iteration."""
    path = module.run_folder.evaluation(int(module.iteration) + 1, module.global_rank, module.trainer.world_size)
    found = load_rollouts(path) if path.exists() else None
    return found.responses if isinstance(found, Rollouts) else None
