"""Runs that any strategy has to end alike: what is left of them, to be compared."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_align import DPO, SPPO, WIND, AlignmentModule, AlphaDPO, IterativeBOND, LoRA, Previous, RewardFunction, Sampler
from lit_align.data.ranks import interleaved
from lit_align.data.rollout_store import load_rollouts
from lit_align.run_folder import RunFolder
from lit_align.types import Rollouts
from tests.conftest import happiness, make_model, prompts_of, write_jsonl
from tests.draws import Margins, recorded, same_draws
from tests.rounding import TRAINED, steps_of
from tests.tiny_runs import build

ITERATIONS = 3


def fickle(prompts, responses, records):
    """Cares for two prompts out of three; the responses to the others tie."""
    cares = [float(record["number"] % 3 > 0) for record in records]
    return [reward * care for reward, care in zip(happiness(prompts, responses, records), cares, strict=True)]


def words(rollouts, texts):
    """Words of a response, in the mean and of the first."""
    counts = [len(text.split()) for text in texts]
    return {"mean": sum(counts) / len(counts), "first": counts[0]}


SOURCES = ("policy", "policy", "anchor", "anchor")
# Algorithm, adapters, learning rate (beyond it rounding grows into another run), hyper-parameters.
RUNS: dict[str, tuple[type[AlignmentModule], LoRA | None, float, dict[str, Any]]] = {
    "WIND, adapters": (
        WIND,
        LoRA(rank=4),
        0.005,
        {"eval_judges": {"sad": RewardFunction("tests.tiny_runs.sadness")}, "metrics": {"words": words}},
    ),
    "WIND, all weights": (WIND, None, 0.005, {"schedule": "linear", "warmup_steps": 1, "reset_optimizer": False}),
    "SPPO": (SPPO, LoRA(rank=4), 0.001, {"beta": 0.5}),
    # Prompts of weight 0: minibatches, and ranks, weigh differently.
    "DPO, with ties": (DPO, None, 0.01, {"beta": 0.3, "judge": RewardFunction("tests.strategies.finished.fickle")}),
    # Baselines from the other prompts of the iteration.
    "IterativeBOND": (
        IterativeBOND,
        LoRA(rank=4),
        0.001,
        {"sampler": Sampler(sources=SOURCES, max_new_tokens=8), "anchor": Previous(every=2)},
    ),
    # Statistics over the pairs of the iteration.
    "AlphaDPO": (AlphaDPO, LoRA(rank=4), 0.003, {"beta": 2.0, "gamma": 0.5, "alpha": 0.3}),
}


@dataclass
class Finished:
    """What a run has left.

    Attributes:
        folder: The run folder, as this process knows it.
        steps: Optimiser steps done.
        weights: Trainable weights.
        rows: Of ``metrics.csv``.
        rollouts: By iteration, of all ranks.
        heldout: The same of evaluation, from iteration 0.
        margins: Of what this process drew.
    """

    folder: Path
    steps: int
    weights: dict[str, torch.Tensor]
    rows: list[dict[str, str]]
    rollouts: list[Rollouts]
    heldout: list[Rollouts]
    margins: Margins


def model_and_pools(folder: Path) -> tuple[str, dict[str, str | None]]:
    """A tiny model and its prompts: 16 to train on, 9 held out."""
    pools: dict[str, str | None] = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(9, offset=40)),
    }
    return str(make_model(folder / "model")), pools


def finished(
    name: str,
    model: str,
    pools: dict[str, str | None],
    root: Path,
    *,
    devices: int = 1,
    batch_size: int = 2,
    accumulate: int = 2,
    ckpt_path: Path | None = None,
    **trainer: Any,
) -> Finished:
    """A run of one of `RUNS` to its end, in this process or in one of several; ``trainer`` overrides."""
    algorithm, lora, lr, options = RUNS[name]
    run = build(
        model,
        pools,
        root / name,
        lora=lora,
        lr=lr,
        algorithm=algorithm,
        wind=options,
        pool={"batch_size": batch_size},
        max_epochs=ITERATIONS,
        devices=devices,
        accumulate_grad_batches=accumulate,
        **trainer,
    )
    with recorded() as margins:
        run.fit(ckpt_path)

    def left(path_of: Callable[[int, int, int], Path], last: int) -> list[Rollouts]:
        shares = [[path_of(iteration, rank, devices) for rank in range(devices)] for iteration in range(last + 1)]
        return [rollouts for rollouts in map(load_shares, shares) if rollouts is not None]

    return Finished(
        run.folder,
        run.trainer.global_step,
        run.weights,
        run.rows,
        left(RunFolder(run.folder).rollouts, ITERATIONS - 1),
        left(RunFolder(run.folder).evaluation, ITERATIONS),
        margins,
    )


def load_shares(paths):
    """The rollouts that all ranks have left, as one; None where a file is missing."""
    return interleaved([load_rollouts(path) for path in paths]) if all(path.exists() for path in paths) else None


def same_tokens(found: Any, expected: Any) -> bool:
    """Whether one run draws the tokens of another, of one device, to its end or to a tie.

    A tie is all that may tell what they draw apart, and from there on they are different runs.
    """
    drawn = [[rollouts.responses for rollouts in (*run.rollouts, *run.heldout)] for run in (found, expected)]
    within = steps_of(torch.float32, 4, TRAINED)
    return all(same_draws(one, same, expected.margins, within) for one, same in zip(*drawn, strict=True))


def skip_after_a_tie(found: Any, expected: Any) -> None:
    """What comes after a tie cannot be compared."""
    if not same_tokens(found, expected):
        pytest.skip("rounding decided between two tokens: these are different runs from there on")
