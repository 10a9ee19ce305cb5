"""How memory and time grow with model, group, length and devices: the tables of benchmarks/scaling.md.

    python benchmarks/scaling.py memory     # computed by the plan, from configs alone; seconds
    python benchmarks/scaling.py time       # measured on SmolLM2-135M, minutes

Seconds are CPU time of one thread, which other work on the machine hardly changes; they compare rows with one another.
"""

import csv
import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).with_suffix(".json")
USUAL = {"prompt": 256, "group": 8, "length": 256, "batch": 1}
SIZES = {  # hidden, layers, heads, key heads, feed-forward, vocabulary, tied
    "SmolLM2-135M": (576, 30, 9, 3, 1536, 49152, True),
    "SmolLM2-360M": (960, 32, 15, 5, 2560, 49152, True),
    "SmolLM2-1.7B": (2048, 24, 32, 32, 8192, 49152, True),
    "Llama-3-8B": (4096, 32, 32, 8, 14336, 128256, False),
}


def plan(size: str, *, dtype: str = "bfloat16", adapters: bool = False, nf4: bool = False, **changes: Any) -> Any:
    """The plan of AdamW on a model of this size, checkpointing on, on CUDA devices."""
    import torch
    from transformers import LlamaConfig

    from lit_align import LanguageModel, LoRA
    from lit_align.models.loading.sizes import shapes_of
    from lit_align.plan.devices import Devices
    from lit_align.plan.plan import Plan, precision_of
    from lit_align.plan.routes import routes_of
    from lit_align.plan.workload import Workload

    hidden, layers, heads, keys, mlp, vocabulary, tied = SIZES[size]
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": keys, "intermediate_size": mlp, "vocab_size": vocabulary}
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(**sizes, tie_word_embeddings=tied, max_position_embeddings=8192).save_pretrained(folder)
        policy = LanguageModel(
            folder, dtype=dtype, lora=LoRA(rank=16) if adapters or nf4 else None, quantization="nf4" if nf4 else None
        )
        shapes, routes = shapes_of(policy), routes_of(policy, "cuda")
    devices = changes.pop("devices", Devices("cuda"))
    work = {name: changes.pop(name) for name in list(changes) if name in USUAL}
    load = Workload(
        **(USUAL | work),
        routes=routes,
        prompt_assumed=False,
        prompts=64,
        heldout=0,
        token_budget=16_384,
        samples=True,
        scores=True,
        iterations=3,
    )
    precision = precision_of(policy, devices.precision)
    trained = getattr(torch, dtype).itemsize if policy.lora is None else 4
    return Plan(shapes, precision, load, devices, optimizer=2.0 * trained, checkpointing=True, **changes)


def row(*cells: Any) -> str:
    """A line of a table."""
    return "| " + " | ".join(f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def head(*cells: str) -> str:
    """The first two lines of a table."""
    return row(*cells) + "\n|---|" + "--:|" * (len(cells) - 1)


def memory() -> None:
    """The computed tables."""
    from lit_align.plan.devices import Devices

    gib = 2.0**30
    kinds: dict[str, dict[str, Any]] = {
        "all weights, float32": {"dtype": "float32"},
        "all weights, bfloat16": {},
        "lora, bfloat16": {"adapters": True},
        "lora on nf4, bfloat16": {"nf4": True},
    }
    print(head("model", *kinds))
    for size in SIZES:
        print(row(size, *(plan(size, **kind).peak / gib for kind in kinds.values())))
    print("\n" + head("Llama-3-8B, lora, bfloat16", "sample", "score", "train"))
    for changes in [{"group": group} for group in (2, 4, 8, 16, 32)] + [{"length": n} for n in (64, 1024, 2048)]:
        found = plan("Llama-3-8B", adapters=True, **changes)
        name = ", ".join(f"{key} {value}" for key, value in changes.items())
        print(row(name, *(total / gib for total in found.totals.values())))
    print("\n" + head("Llama-3-8B, all weights, float32, bf16-mixed", "always", "sample", "train"))
    for count, sharded in ((1, False), (8, False), (2, True), (4, True), (8, True), (16, True)):
        devices = Devices("cuda", count, sharded, precision="bf16-mixed")
        found = plan("Llama-3-8B", dtype="float32", devices=devices)
        how = "FSDP2" if sharded else "DDP" if count > 1 else "alone"
        totals = found.totals
        always = sum(found.always.values())
        print(row(f"{count} x {how}", always / gib, totals["sample"] / gib, totals["train"] / gib))


def measured(prompts: int, group: int, length: int) -> dict[str, float]:
    """CPU seconds and tokens of an iteration."""
    import torch

    import lit_align.iteration.stages
    from lit_align.cli import main
    from lit_align.data.rollout_store import load_rollouts
    from lit_align.run_folder import recorded

    torch.set_num_threads(1)
    lit_align.iteration.stages.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        overlay = Path(folder) / "scale.yaml"
        overlay.write_text(
            "trainer: {max_epochs: 1, limit_val_batches: 0, enable_checkpointing: false, logger: false}\n"
            "data: {init_args: {heldout: null, batch_size: 4}}\n"
            "model: {init_args: {policy: {init_args: {system: null}}}}\n"
        )
        options = ["--data.prompts_per_iteration", str(prompts), "--model.sampler.group_size", str(group)]
        options += ["--model.sampler.max_new_tokens", str(length), "--trainer.default_root_dir", folder]
        options += ["--trainer.callbacks", "RunRecord", "--trainer.callbacks.export", "false"]
        options += ["--trainer.callbacks.samples", "0"]
        cli = main(["fit", "-c", str(ROOT / "configs"), "-c", str(overlay), *options])
        run = Path(cli.trainer.default_root_dir)
        with (run / "timings.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        responses = load_rollouts(recorded(str(run))[0][0]).responses
    seconds = {name: float(last[f"{name}_seconds"]) for name in ("sample", "score", "train")}
    return seconds | {"tokens": float(responses.lengths.sum()), "prompts": prompts, "group": group, "length": length}


def times() -> None:
    """The measured table."""
    cases = [
        (8, 2, 32),
        (8, 4, 32),
        (8, 8, 32),
        (8, 16, 32),
        (4, 8, 32),
        (16, 8, 32),
        (8, 8, 16),
        (8, 8, 64),
        (8, 8, 128),
    ]
    rows = [measured(*case) for case in cases]
    RESULT.write_text(json.dumps(rows, indent=2) + "\n")
    print(head("prompts x responses x length", "tokens drawn", "sample", "score", "train", "all, ms a token"))
    for found in rows:
        seconds = [found[name] for name in ("sample", "score", "train")]
        name = f"{found['prompts']} x {found['group']} x {found['length']}"
        print(row(name, int(found["tokens"]), *seconds, 1000 * sum(seconds) / found["tokens"]))


if __name__ == "__main__":
    memory() if sys.argv[1:] == ["memory"] else times()
