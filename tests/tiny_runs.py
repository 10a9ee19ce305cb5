"""Whole runs of the tiny model: what the tests of iterations start from."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pyarrow.parquet as pq
import pytest
import torch

from lit_align import WIND, AlignmentModule, LanguageModel, LoRA, RewardFunction, RunRecord, Sampler
from lit_align.data.prompt_pool import PromptPool
from lit_align.runs.trainer import Trainer
from tests.conftest import happiness
from tests.rounding import AGAIN, assert_same_but_rounding, steps_of

# Nats, between sampling and scoring one response by the very same policy; another policy is farther away.
OTHER_KERNELS = steps_of(torch.float32, size=32, count=AGAIN)


def sadness(prompts, responses, records):
    """The opposite taste."""
    return [-reward for reward in happiness(prompts, responses, records)]


grumbling = False


def grumpy(prompts, responses, records):
    """Raises on records with an even number, while ``grumbling``."""
    if grumbling and any(record["number"] % 2 == 0 for record in records):
        raise KeyError("mood")
    return happiness(prompts, responses, records)


@dataclass
class Run:
    """A module, its prompts and its trainer, with one seed."""

    module: AlignmentModule
    pool: PromptPool
    trainer: Trainer
    seed: int

    def fit(self, ckpt_path: str | Path | None = None) -> "Run":
        L.seed_everything(self.seed, verbose=False)
        self.trainer.fit(self.module, self.pool, ckpt_path=ckpt_path)
        return self

    @property
    def folder(self) -> Path:
        return Path(self.trainer.default_root_dir)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.module.state_dict().items()}

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open() as file:
            return list(csv.DictReader(file))

    def table(self, iteration: int) -> Any:
        return pq.read_table(self.folder / "rollouts" / f"iteration-{iteration:04d}-rank0.parquet")


def build(
    model: str,
    pools: dict[str, str | None],
    folder: Path,
    *,
    lora: LoRA | None = LoRA(rank=4),  # noqa: B008
    seed: int = 0,
    lr: float = 0.05,
    algorithm: type[AlignmentModule] = WIND,
    wind: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    export: bool = False,
    **trainer: Any,
) -> Run:
    """A run of two iterations of eight prompts, on CPU, ready to fit; ``wind``, ``pool`` and ``trainer`` override."""
    L.seed_everything(seed, verbose=False)
    own = {"beta": 0.1, "eta": 2.0} if algorithm is WIND else {}
    module = {
        "optimizer": lambda p: torch.optim.SGD(p, lr=lr),
        "policy": LanguageModel(name=model, lora=lora),
        "judge": RewardFunction("tests.conftest.happiness"),
        "sampler": Sampler(group_size=4, max_new_tokens=8),
        **own,
    } | (wind or {})
    options = {
        "default_root_dir": folder,
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "enable_progress_bar": False,
        "logger": False,
        "callbacks": [RunRecord(samples=0, export=export)],
    }
    return Run(
        algorithm(**module),
        PromptPool(**pools, **({"prompts_per_iteration": 8, "batch_size": 4} | (pool or {}))),
        Trainer(**(options | trainer)),
        seed,
    )


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], steps: float = 0) -> None:
    """The same bits, or so many steps of rounding apart."""
    assert first.keys() == second.keys()
    for name in first:
        assert_same_but_rounding(second[name], first[name], steps, name)


def assert_same_metrics(found: list[dict[str, str]], expected: list[dict[str, str]], but: str = "nothing") -> None:
    """Rows of metrics.csv but for rounding, without the names that begin with ``but``."""
    close = steps_of(torch.float32, size=32, count=32)  # log-probabilities of responses are sums of that size, in nats
    for row, same in zip(found, expected, strict=True):
        assert row.keys() == same.keys()
        for name, value in same.items():
            if name.startswith(but):
                continue
            assert (row[name] == "") == (value == "")
            if value:
                assert float(row[name]) == pytest.approx(float(value), abs=close), name


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
