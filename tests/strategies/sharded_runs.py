"""Whole runs of a policy in shards and of the same policy on one device: what is left of them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lit_align import Extrapolated, LanguageModel, LoRA, MovingAverage, Previous, Sampler
from lit_align.models.sharding.gather import full_state
from lit_align.run_folder import RunFolder
from lit_align.types import Rollouts
from tests.draws import Margins, recorded
from tests.strategies.finished import load_shares
from tests.strategies.sharded import Weights, exported
from tests.tiny_runs import Run, build

ITERATIONS = 3
SAMPLER = Sampler(sources=("policy", "anchor", "policy", "anchor"), max_new_tokens=8)


class FSDP1OnCPU(FSDPStrategy):
    """Lightning refuses FSDP1 itself on CPU, by its type; torch does not."""


def fsdp2() -> ModelParallelStrategy:
    return ModelParallelStrategy(2, 1, save_distributed_checkpoint=False, timeout=timedelta(minutes=10))


@dataclass
class Case:
    """How a run is sharded, and what of it.

    Attributes:
        strategy: Makes that of two devices.
        anchor: Makes the anchor.
        policy: Given to `LanguageModel`.
        goes_on: Whether it is also run in two parts.
        twin: Another case, whose run on one device would be the same.
    """

    strategy: Callable[[], Any]
    anchor: Callable[[], Any]
    policy: dict[str, Any]
    goes_on: bool = False
    twin: str | None = None


ADAPTERS = {"lora": LoRA(rank=4)}
CASES = {
    "all weights, every second": Case(fsdp2, lambda: Previous(2), {}),
    "all weights, moving average": Case(fsdp2, lambda: MovingAverage(0.5), {}, goes_on=True),
    "all weights, extrapolated": Case(fsdp2, lambda: Extrapolated(0.5), {}),
    "adapters, extrapolated": Case(fsdp2, lambda: Extrapolated(0.5), ADAPTERS, goes_on=True),
    "adapters on nf4": Case(fsdp2, lambda: MovingAverage(0.5), ADAPTERS | {"quantization": "nf4"}),
    "FSDP1": Case(
        lambda: FSDP1OnCPU(timeout=timedelta(minutes=10)),
        lambda: MovingAverage(0.5),
        {},
        goes_on=True,
        twin="all weights, moving average",
    ),
}


@dataclass
class Left:
    """What a run has left on one rank; weights on the first alone.

    Attributes:
        weights: Of the last iterate.
        rows: Of ``metrics.csv``.
        rollouts: By iteration, of all ranks.
        heldout: The same of evaluation, before the first iteration and after the last.
        margins: Of what this process drew.
        exported: The plain model's weights.
        went_on: Weights of a run that was stopped after the second iteration and went on.
        taken_over: The same of a run that another number of devices began.
    """

    weights: Weights
    rows: list[dict[str, str]]
    rollouts: list[Rollouts]
    heldout: list[Rollouts]
    margins: Margins
    exported: Weights
    went_on: Weights
    taken_over: Weights


def all_left(model: str, pools: dict[str, str], root: Path, devices: int, others: Path) -> dict[str, Left]:
    """Every run to its end, then those that go on from their own checkpoints and those of the ``others``' runs."""
    names = [name for name, case in CASES.items() if devices > 1 or case.twin is None]
    return {name: left(name, model, pools, root, devices, others) for name in names}


def left(name: str, model: str, pools: dict[str, str], root: Path, devices: int, others: Path) -> Left:
    """One run, and once more in two parts."""

    def run(place: str, **trainer: Any) -> Run:
        return begun(CASES[name], model, pools, root / name / place, devices, **trainer)

    def gone_on(folder: Path) -> Weights:
        continued = run("parts", run=folder).fit(folder / "checkpoints" / f"iteration-{ITERATIONS - 1:04d}.ckpt")
        return full_state(continued.module.policy, frozen=False)

    went_on, taken_over = {}, {}
    if CASES[name].goes_on:
        went_on = gone_on(run("parts", max_epochs=ITERATIONS - 1).fit().folder)
        folder = others / (CASES[name].twin or name)
        taken_over = gone_on(begun_by(folder)) if folder.exists() else {}
    with recorded() as margins:
        whole = run("whole").fit()
    weights = full_state(whole.module.policy, frozen=False)
    place = RunFolder(whole.folder)
    rollouts = [load_shares([place.rollouts(i, rank, devices) for rank in range(devices)]) for i in range(ITERATIONS)]
    ends = (0, ITERATIONS)
    heldout = [load_shares([place.evaluation(i, rank, devices) for rank in range(devices)]) for i in ends]
    model_now = exported(place.model) if weights else {}
    return Left(weights, whole.rows, rollouts, heldout, margins, model_now, went_on, taken_over)  # type: ignore[arg-type]


def begun_by(others: Path) -> Path:
    """The run folder of a run in parts."""
    (folder,) = (others / "parts").iterdir()
    return folder


def begun(case: Case, model: str, pools: dict[str, str], root: Path, devices: int, **trainer: Any) -> Run:
    """A run on so many devices of one global batch: clipped, with an optimiser that has a state."""
    return build(
        model,
        pools,
        root,
        wind={
            "policy": LanguageModel(model, **case.policy),
            "anchor": case.anchor(),
            "sampler": SAMPLER,
            "optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.5),
            "reset_optimizer": False,
        },
        pool={"batch_size": 4 // devices},
        export=True,
        **{
            "max_epochs": ITERATIONS,
            "devices": devices,
            "strategy": case.strategy() if devices > 1 else "auto",
            "gradient_clip_val": 0.5,
            "check_val_every_n_epoch": ITERATIONS,
        }
        | trainer,
    )
