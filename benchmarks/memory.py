"""The plan's memory beside the memory that runs really take: SmolLM2-135M, one run a process.

    python benchmarks/memory.py                 # all cases, about a quarter of an hour on one core
    python benchmarks/memory.py lora nf4        # some of them

On a CPU the measure is the largest resident set above that of the imports (VmHWM, set back before the weights load); on
CUDA it is what the allocator has handed out. Writes benchmarks/memory.json and prints a table.
"""

import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
EVERYWHERE = {"lora": {"layers": None, "target_modules": "all-linear"}}
CASES: dict[str, dict[str, Any]] = {
    "all weights, AdamW": {"policy": {"lora": None}, "lr": 1e-5, "group": 4, "length": 32, "batch": 2},
    "all weights, moving average": {
        "policy": {"lora": None},
        "lr": 1e-5,
        "group": 4,
        "length": 32,
        "batch": 2,
        "anchor": {"class_path": "MovingAverage", "init_args": {"rate": 0.5}},
    },
    "lora, upper half (quickstart)": {"group": 12, "length": 20, "batch": 4},
    "lora, all layers, group of 32": {"policy": EVERYWHERE, "group": 32, "length": 20, "batch": 2},
    "lora, 256 tokens": {"policy": EVERYWHERE, "group": 8, "length": 256, "batch": 1},
    "lora, 256 tokens, checkpointing": {
        "policy": EVERYWHERE | {"gradient_checkpointing": True},
        "group": 8,
        "length": 256,
        "batch": 1,
    },
    "nf4 and lora": {"policy": EVERYWHERE | {"quantization": "nf4"}, "group": 8, "length": 32, "batch": 2},
    "bfloat16, all weights": {
        "policy": {"lora": None, "dtype": "bfloat16"},
        "lr": 1e-5,
        "group": 4,
        "length": 32,
        "batch": 2,
    },
}


def overlay(case: dict[str, Any]) -> dict[str, Any]:
    """What is laid over configs/config.yaml: two optimiser steps, no evaluation, no end of sequence before the last."""
    policy = case.get("policy", {}) | {"system": None}
    return {
        "trainer": {
            "max_epochs": 1,
            "limit_val_batches": 0,
            "enable_checkpointing": False,
            "check_memory": False,
            "logger": False,
            "callbacks": [{"class_path": "RunRecord", "init_args": {"samples": 0, "export": False}}],
        },
        "model": {
            "init_args": {
                "policy": {"init_args": policy},
                "sampler": {"group_size": case["group"], "max_new_tokens": case["length"]},
                "optimizer": {"init_args": {"lr": case.get("lr", 1e-4)}},
            }
            | ({"anchor": case["anchor"]} if "anchor" in case else {})
        },
        "data": {
            "init_args": {"prompts_per_iteration": 2 * case["batch"], "batch_size": case["batch"], "heldout": None}
        },
    }


def measure(name: str) -> dict[str, Any]:
    """Plan and run a case in this process."""
    import torch
    import yaml

    from lit_align import LanguageModel
    from lit_align.cli import main
    from lit_align.data.rollout_store import load_rollouts
    from lit_align.plan.plan import LIBRARIES

    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    loaded = LanguageModel.load
    start = 0

    def load(self: LanguageModel, device: Any = "cpu") -> None:
        nonlocal start
        if self.model is None:
            gc.collect()
            start = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
            torch.cuda.reset_peak_memory_stats() if cuda else Path("/proc/self/clear_refs").write_text("5")
        loaded(self, device)

    LanguageModel.load = load  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.yaml"
        path.write_text(yaml.safe_dump(overlay(CASES[name])))
        arguments = ["-c", str(ROOT / "configs"), "-c", str(path), "--trainer.default_root_dir", folder]
        plan = main(["plan", *arguments]).trainer.planned
        cli = main(["fit", *arguments])
        peak = (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - start
        collected = sorted(Path(cli.trainer.default_root_dir, "rollouts").glob("iteration-*.parquet"))
        longest = int(load_rollouts(collected[-1]).responses.lengths.max())
    planned = plan.peak - LIBRARIES.get(plan.devices.kind, 0.0)
    phase = max(plan.totals, key=lambda name: plan.totals[name])
    return {"case": name, "planned": planned, "measured": peak, "phase": phase, "longest": longest}


def resident(key: str) -> int:
    """Bytes of the resident set: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def run(names: list[str]) -> None:
    """Each case in a process of its own; the table, and the file."""
    found = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else []
    rows = {row["case"]: row for row in found}
    for name in CASES:
        if names and not any(part in name for part in names):
            continue
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, "--measure", name], capture_output=True, text=True, env=environment, cwd=ROOT
        )
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(line(rows[name]), flush=True)
    ordered = [rows[name] for name in CASES if name in rows]
    machine = {"machine": platform.machine(), "device": "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"}
    RESULT.write_text(json.dumps(machine | {"cases": ordered}, indent=2) + "\n")
    print("\n| run | peak while | planned, GiB | measured, GiB | planned / measured |\n|---|---|--:|--:|--:|")
    print("\n".join(line(row) for row in ordered))


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    planned, measured = row["planned"], row["measured"]
    sizes = f"{planned / 2**30:.2f} | {measured / 2**30:.2f} | {planned / measured:.2f}"
    return f"| {row['case']} | {row['phase']} | {sizes} |"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(sys.argv[2])))
    else:
        run(sys.argv[1:])
