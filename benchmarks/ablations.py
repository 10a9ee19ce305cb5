"""What each way of saving time is worth: the same work with one of them taken away, on SmolLM2-135M in float32.

    python benchmarks/ablations.py ablations.json

With and without take turns in one process; medians are compared. Responses and log-probs are the same either way, which
the tests check.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from sampling import QUICKSTART, UPPER_HALF, Case, ours, prescribed_lengths
from torch import Tensor
from training import tokens

from lit_align.data.sources import read
from lit_align.models import LanguageModel
from lit_align.types import Prompts, Responses

Work = Callable[[], object]


def plain_draw(scores: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """By inverse CDF, over the whole vocabulary at once."""
    logps = scores.log_softmax(-1)
    sums = logps.exp().cumsum(-1)
    drawn = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
    return drawn.squeeze(-1), logps.gather(-1, drawn).squeeze(-1)


@dataclass(frozen=True)
class Saving:
    """What is patched to take a saving away, and the work it is measured on."""

    name: str
    on: str
    target: str
    instead: Any


MODELS, SAMPLING = "lit_align.models", "lit_align.sampling.generate"
SAVINGS = [
    Saving("a prompt and its cache once a group", "sampling", f"{MODELS}.cached.groupable", lambda *_: False),
    Saving("what all prompts begin with, once", "sampling", f"{MODELS}.prefix._WORTH", 10**9),
    Saving("drawing by blocks, one exponential", "sampling", f"{SAMPLING}.draw", plain_draw),
    Saving("rows that have ended make way", "sampling, short among long", f"{SAMPLING}._COMPACT", 2.0),
    Saving("adapters added to their weights", "sampling, adapters", f"{MODELS}.language_model.fused", nullcontext),
    Saving("one sequence a group", "step", f"{MODELS}.language_model.sequences", lambda *shape: shape[2]),
    Saving("head in parts, never all logits", "step", f"{MODELS}.packed.readout_of", lambda _: None),
    Saving("several sequences for a long group", "step, long", f"{MODELS}.language_model.sequences", lambda *_: 1),
]


def sampling(policy: LanguageModel, case: Case) -> Work:
    """Responses to a few prompts."""
    pool = read("pool:topics_train")
    prompts = policy.encode([pool[i] for i in range(case.prompts)])
    lengths = prescribed_lengths(case.prompts * case.group, case.tokens) if case.prescribed else None
    return lambda: ours(policy, prompts, case, lengths, 0)


def step(policy: LanguageModel, prompts: Tensor, answers: Tensor) -> Work:
    """A forward and a backward pass over groups."""
    whole = torch.ones_like(prompts, dtype=torch.bool)
    asked = Prompts(prompts, whole, torch.arange(len(prompts)), [{"prompt": ""}] * len(prompts))
    mask = torch.ones_like(answers, dtype=torch.bool)
    responses = Responses(asked, answers, mask, mask[..., 0], torch.zeros(answers.shape))

    def work() -> None:
        policy.logps(responses).sum().backward()
        policy.zero_grad(set_to_none=True)

    return work


def works() -> dict[str, Work]:
    """All that is measured, by name."""
    plain, adapted = LanguageModel(QUICKSTART, lora=None), LanguageModel(QUICKSTART, lora=UPPER_HALF)
    for policy in (plain, adapted):
        policy.load()
    prompts, answers = (torch.tensor(part) for part in tokens())
    long = torch.randint(100, 40_000, (1, 8, 192))
    return {
        "sampling": sampling(plain, Case("", 8, 8, 32)),
        "sampling, short among long": sampling(plain, Case("", 8, 8, 64, prescribed=True)),
        "sampling, adapters": sampling(adapted, Case("", 8, 12, 20)),
        "step": step(plain, prompts[:4], answers[:4]),
        "step, long": step(plain, prompts[:1, :40], long),
    }


def main(options: argparse.Namespace) -> None:
    """Time every saving, and write and print what it is worth."""
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    ready, rows = works(), []
    print("| saving | work | times as long without it |\n|---|---|--:|")
    for saving in SAVINGS:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(options.repeats + 1):
            for without in (False, True):
                module, _, name = saving.target.rpartition(".")
                patch = mock.patch.object(sys.modules[module], name, saving.instead)
                with patch if without else nullcontext():
                    start = time.perf_counter()
                    ready[saving.on]()
                if repeat:  # the first of each warms up
                    seconds[without].append(time.perf_counter() - start)
        ratio = statistics.median(seconds[True]) / statistics.median(seconds[False])
        rows.append(
            {"saving": saving.name, "work": saving.on, "ratio": ratio, "with": seconds[False], "without": seconds[True]}
        )
        print(f"| {saving.name} | {saving.on} | {ratio:.2f} |", flush=True)
        options.results.write_text(json.dumps({"rows": rows, "threads": options.threads}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    main(parser.parse_args())
