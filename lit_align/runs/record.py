"""A run leaves a record behind: its rows as CSV, a table, a few prompts before and after, the exported model."""

import csv
import io
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from lit_align.data.ranks import from_all_ranks, load_answers
from lit_align.iteration.iterated import Iterated, iterated
from lit_align.run_folder import RunFolder
from lit_align.utils.arguments import check_finite
from lit_align.utils.files import write_text

_PACKAGES = ("lit-align", "torch", "lightning", "transformers", "peft", "datasets", "bitsandbytes", "torchmetrics")
_COLUMNS = {  # heading -> (key of a row, format)
    "it": ("iteration", "{:.0f}"),
    "train reward": ("train/reward", "{:.3f}"),
    "win rate": ("val/win_rate", "{:.3f}"),
    "95% interval": ("val/win_rate_low", "{:.3f}"),
    "reward": ("val/reward", "{:.3f}"),
    "KL": ("val/kl", "{:.2f}"),
    "length": ("val/length", "{:.1f}"),
    "truncated": ("val/truncated", "{:.2f}"),
    "distinct-2": ("val/distinct_2", "{:.3f}"),
    "KL to equilibrium": ("val/kl_to_equilibrium", "{:.2e}"),
    "exploitability": ("val/exploitability", "{:.2e}"),
    "sub-optimality": ("val/sub_optimality", "{:.4f}"),
    "responses": ("train/responses", "{:.0f}"),
}
_ROWS = 40  # the printed table has so many; metrics.csv has them all


class RunRecord(Callback):
    """Writes ``metrics.csv`` and ``timings.csv`` after every iteration; prints the table and samples at the end.

    ``metrics.csv`` has one row an iteration, from iteration 0, and holds nothing that differs between two runs of the
    same seed; seconds and tokens per second are in ``timings.csv``.

    Args:
        samples: Prompts shown with their response before and after.
        export: Write the aligned model to ``model/`` when the run ends.
    """

    def __init__(self, samples: int = 3, export: bool = True) -> None:
        check_finite("RunRecord", {"samples": samples})
        if samples < 0:
            raise ValueError(f"RunRecord.samples must be >= 0, got {samples}")
        self.samples = samples
        self.export = export
        self.timings: list[dict[str, float]] = []
        width = None if sys.stdout.isatty() else 160  # a log file has no width of its own
        self.console = Console(width=width)

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            versions = RunFolder(Path(trainer.default_root_dir)).versions
            write_text(versions, json.dumps(_versions(), indent=2) + "\n")

    @override
    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the first row: iteration 0 has been evaluated."""
        if not self.timings:
            self._book(trainer, 0, "evaluate")
        if trainer.is_global_zero:
            self._write(trainer, iterated(pl_module))

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Book the seconds of this iteration; the module makes its row of metrics after this."""
        self._book(trainer, int(iterated(pl_module).iteration) + 1)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write both files with the checkpoint: the module has its row by now."""
        checkpoint["timings"] = self.timings
        if trainer.is_global_zero:
            self._write(trainer, iterated(pl_module))

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self.timings = checkpoint.get("timings", [])

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the rows and the model, then show the table and the samples."""
        module, folder = iterated(pl_module), RunFolder(Path(trainer.default_root_dir))
        if trainer.is_global_zero:
            self._write(trainer, module)
        if self.export:
            module.export(folder.model)
        if trainer.is_global_zero:
            self.console.print(iterations_table(module.history, self.timings))
            self._show_samples(module, folder, trainer.world_size)
            self.console.print(Text("run folder", "bold"), folder.path, soft_wrap=True, markup=False)

    def _book(self, trainer: L.Trainer, iteration: int, *stages: str) -> None:
        taken = iterated(trainer.lightning_module).stages.take(*stages)
        seconds, tokens = of_all_ranks(from_all_ranks(taken, trainer.world_size))
        row = {"iteration": float(iteration), **{f"{name}_seconds": value for name, value in seconds.items()}}
        row |= {f"{name}_tokens_per_second": count / seconds[name] for name, count in tokens.items() if count}
        self.timings.append(row)

    def _write(self, trainer: L.Trainer, module: Iterated) -> None:
        folder = RunFolder(Path(trainer.default_root_dir))
        _write_csv(folder.metrics, module.history)
        _write_csv(folder.timings, self.timings)

    def _show_samples(self, module: Iterated, folder: RunFolder, world_size: int) -> None:
        last = int(module.iteration)
        before, after = (
            load_answers([folder.evaluation(iteration, rank, world_size) for rank in range(world_size)])
            for iteration in (0, last)
        )
        if last == 0 or not before or not after:
            return
        step = max(1, len(before) // max(1, self.samples))
        for (prompt, first), (_, second) in list(zip(before, after, strict=False))[::step][: self.samples]:
            self.console.print(Text(f"\n{prompt}", "bold"), highlight=False)
            for name, text in (("before", first), ("after", second)):
                self.console.print(f"  {name:>6}: ", end="", highlight=False)
                self.console.print(" ".join(text.split()), markup=False, highlight=False, soft_wrap=True)
        self.console.print()


def of_all_ranks(taken: list[tuple[dict[str, float], dict[str, int]]]) -> tuple[dict[str, float], dict[str, int]]:
    """Return seconds and tokens by stage: each lasts as on the slowest rank, and its tokens are those of all."""
    seconds: dict[str, float] = {}
    tokens: dict[str, int] = {}
    for lasted, drawn in taken:
        seconds |= {name: max(value, seconds.get(name, 0.0)) for name, value in lasted.items()}
        tokens |= {name: count + tokens.get(name, 0) for name, count in drawn.items()}
    return seconds, tokens


def iterations_table(history: list[dict[str, float]], timings: list[dict[str, float]]) -> Table:
    """Return the table of a run, at most 40 iterations: what was measured, and the seconds of stages that take any.

    ``history`` has the metrics of each iteration in order, ``timings`` its ``<stage>_seconds``.
    """
    table = Table(title="iterations (win rate against the initial policy)")
    columns = {heading: column for heading, column in _COLUMNS.items() if any(column[0] in row for row in history)}
    columns |= _others(history)
    lasted = {name: _seconds(timings, name) for name in ("sample", "judge", "score", "train", "evaluate")}
    stages = [name for name, seconds in lasted.items() if max(seconds.values(), default=0) >= 0.5]
    for heading in (*columns, *(f"{name} s" for name in stages)):
        table.add_column(heading, justify="right")
    measured = [row for row in history if any(name.startswith("val/") for name in row)] or history
    for row in _spread(measured, history[-1:]):
        cells = [_cell(row, *column) for column in columns.values()]
        seconds = [lasted[name].get(int(row["iteration"])) for name in stages]
        table.add_row(*cells, *("-" if value is None else f"{value:.0f}" for value in seconds))
    return table


def _others(history: list[dict[str, float]]) -> dict[str, tuple[str, str]]:
    """Columns of measures of a user's own; the win rates of further judges are in ``metrics.csv``."""
    known = {key for key, _ in _COLUMNS.values()}
    measured = {name for row in history for name in row if name.startswith("val/")}
    ends = {f"{name}{end}" for name in measured for end in ("_low", "_high")}  # intervals are in metrics.csv
    names = sorted(measured - known - ends)
    return {name.removeprefix("val/"): (name, "{:.4g}") for name in names if not name.startswith("val/win_rate")}


def _cell(row: dict[str, float], key: str, layout: str) -> str:
    if key not in row:
        return "-"
    return f"{row[key]:.3f} - {row['val/win_rate_high']:.3f}" if key == "val/win_rate_low" else layout.format(row[key])


def _seconds(timings: list[dict[str, float]], stage: str) -> dict[int, float]:
    key = f"{stage}_seconds"
    return {int(row["iteration"]): row[key] for row in timings if key in row}


def _spread(rows: list[dict[str, float]], last: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return evenly spaced rows and the last one."""
    others = [row for row in rows if row not in last]
    return [*others[:: -(-len(others) // (_ROWS - 1)) or 1], *last]


def _write_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """Write all rows at once; a value that a row lacks is empty."""
    names = sorted({name for row in rows for name in row} - {"iteration"})
    text = io.StringIO()
    writer = csv.DictWriter(text, ["iteration", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "iteration": int(row["iteration"])} for row in rows)
    write_text(path, text.getvalue())


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
