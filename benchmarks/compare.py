"""Every method on the quickstart's model, judge and prompts: one row a method and seed, kept as soon as it is there.

    python benchmarks/compare.py --set methods            # each method once, at the budget of configs/overlays/toy.yaml
    python benchmarks/compare.py --set tuning --set samples --set clock --set momentum     # three seeds

A run that is in the results already is not run again: stop it at any time and go on later. The table goes to
standard output, the numbers to ``benchmarks/results.json``. Seconds are those of one machine and compare rows with one
another, nothing else.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
TOY = CONFIGS / "overlays" / "toy.yaml"
STAGES = ("sample", "judge", "score", "train")
Results = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Row:
    """A method with its overrides; ``name`` is what the table calls it."""

    name: str
    config: str
    options: dict[str, str] = field(default_factory=dict, hash=False)
    seeds: tuple[int, ...] = (0,)

    def arguments(self, seed: int) -> list[str]:
        pairs = [("seed_everything", str(seed)), *self.options.items()]
        files = [word for path in (CONFIGS, TOY, self.overlay) for word in ("-c", str(path))]
        return ["fit", *files, *(f"--{name}={value}" for name, value in pairs)]

    @property
    def overlay(self) -> Path:
        """The method's own file, which may ask for iterations of one step and more of them."""
        return CONFIGS / "algorithms" / f"{self.config}.yaml"

    @property
    def iterations(self) -> str:
        budget, method = (yaml.safe_load(path.read_text()).get("trainer", {}) for path in (TOY, self.overlay))
        return self.options.get("trainer.max_epochs") or str((budget | method)["max_epochs"])

    def key(self, seed: int) -> str:
        options = " ".join(f"{name}={value}" for name, value in sorted(self.options.items()))
        return f"{self.config} {options} seed={seed}".replace("  ", " ")


# Methods of one step an iteration sample in small batches, slowly: fewer iterations, so that a row takes 90 s at most.
SHORTER = {"bond": "5", "jbond": "6", "nash_md": "5"}
NEEDS_DATA = {"dpo_offline", "dpo_replay"}


def methods() -> list[Row]:
    names = [path.stem for path in sorted((CONFIGS / "algorithms").glob("*.yaml")) if path.stem not in NEEDS_DATA]
    return [Row(name, name, {"trainer.max_epochs": SHORTER[name]} if name in SHORTER else {}) for name in names]


def momentum() -> list[Row]:
    """Four iterations of 8 prompts x 8 responses at three strengths of momentum."""
    budget = {"trainer.max_epochs": "4", "data.prompts_per_iteration": "8"}
    return [
        Row(f"accelerated_dpo, alpha {alpha}", "accelerated_dpo", budget | {"model.alpha": str(alpha)}, (0, 1, 2))
        for alpha in (0.0, 0.3, 0.6)
    ]


CONTENDERS = ("wind", "sppo", "bond", "jbond")  # 256 to 320 responses each
RATES = {"lr / 2": "7.5e-4", "lr": "1.5e-3", "2 lr": "3e-3"}


def tuning() -> list[Row]:
    """The grid of every contender, fixed beforehand, on a seed that is not reported."""
    return [
        Row(f"{name}, {label}", name, {"model.optimizer.lr": rate}, (9,))
        for name in CONTENDERS
        for label, rate in RATES.items()
    ]


def samples(results: Results) -> list[Row]:
    """Each contender at the best rate of its grid, at equal samples."""
    rows = []
    for name in CONTENDERS:
        grid = [row for row in tuning() if row.config == name]
        if any(row.key(9) not in results for row in grid):
            raise SystemExit(f"{name}: run --set tuning first")
        best = max(grid, key=lambda row: results[row.key(9)]["win_rate"])
        rows.append(Row(f"{name}, {best.name.split(', ')[1]}", name, best.options, (0, 1, 2)))
    return rows


def clock(results: Results) -> list[Row]:
    """The same at the wall-clock of WIND: more or fewer steps, or prompts where steps are few."""
    wind, *others = samples(results)
    target = sum(results[wind.key(seed)]["seconds"] for seed in wind.seeds)
    rows = [wind]
    for row in others:
        if any(row.key(seed) not in results for seed in row.seeds):
            raise SystemExit(f"{row.config}: run --set samples first")
        ratio = target / sum(results[row.key(seed)]["seconds"] for seed in row.seeds)
        steps = {"trainer.max_epochs": str(round(int(row.iterations) * ratio))}
        prompts = {"data.prompts_per_iteration": str(4 * round(16 * ratio / 4))}
        rows.append(Row(row.name, row.config, row.options | (prompts if row.config == "sppo" else steps), row.seeds))
    return rows


def run(row: Row, seed: int, cache: Path) -> dict[str, float]:
    """One run; the initial policy's held-out responses are the same in all runs of a seed, and drawn once."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "run"
        (folder / "evaluation").mkdir(parents=True)
        initial, kept = folder / "evaluation" / "heldout-0000-rank0.parquet", cache / f"initial-{seed}.parquet"
        if kept.exists():
            shutil.copy(kept, initial)
        trainer = {
            "run": folder,
            "check_val_every_n_epoch": row.iterations,
            "enable_progress_bar": "false",
            "enable_checkpointing": "false",
            "logger": "false",
            "callbacks": "lit_align.callbacks.RunRecord",
            "callbacks.export": "false",
        }
        options = [f"--trainer.{name}={value}" for name, value in trainer.items()]
        command = [sys.executable, "-m", "lit_align", *row.arguments(seed), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        shutil.copy(initial, kept)
        return summary(folder)


def summary(folder: Path) -> dict[str, float]:
    rows = [
        {name: float(value) for name, value in row.items() if value}
        for row in csv.DictReader((folder / "metrics.csv").open())
    ]
    timings = list(csv.DictReader((folder / "timings.csv").open()))
    seconds = sum(float(row.get(f"{stage}_seconds") or 0) for row in timings for stage in STAGES)
    last = rows[-1]
    found = {name.removeprefix("val/"): value for name, value in last.items() if name.startswith("val/")}
    return found | {"responses": last["train/responses"], "iterations": last["iteration"], "seconds": seconds}


def table(results: Results, rows: list[Row]) -> str:
    lines = [
        "| method | seed | win rate (95 % interval) | AFINN | KL, nats | distinct-2 | responses | seconds |",
        "|---|--:|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        for seed in row.seeds:
            if (found := results.get(row.key(seed))) is not None:
                rate = "{win_rate:.3f} ({win_rate_low:.3f} - {win_rate_high:.3f})".format(**found)
                rest = "{win_rate_afinn:.3f} | {kl:.2f} | {distinct_2:.3f} | {responses:.0f} | {seconds:.0f}"
                lines.append(f"| {row.name} | {seed} | {rate} | {rest.format(**found)} |")
    return "\n".join(lines)


SETS = {
    "methods": lambda results: methods(),
    "momentum": lambda results: momentum(),
    "tuning": lambda results: tuning(),
    "samples": samples,
    "clock": clock,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", choices=list(SETS), required=True)
    parser.add_argument("--print", action="store_true", help="print what is there, run nothing")
    parser.add_argument("--only", help="names of configs, separated by commas")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "lit_align" / "compare")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for name in arguments.set:
        rows = [row for row in SETS[name](results) if not arguments.only or row.config in arguments.only.split(",")]
        for row in rows:
            for seed in row.seeds:
                if row.key(seed) not in results and not arguments.print:
                    print(row.key(seed), flush=True)
                    found = run(row, seed, arguments.cache)
                    if arguments.results.exists():  # two of these may share the work
                        results |= json.loads(arguments.results.read_text())
                    results[row.key(seed)] = found
                    arguments.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
        print(f"\n### {name}\n\n{table(results, rows)}\n")


if __name__ == "__main__":
    main()
