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
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from sampling import QUICKSTART, Case, ours, prescribed_lengths
from torch import Tensor
from training import tokens

from lit_align import LanguageModel, LoRA
from lit_align.data.sources import read
from lit_align.sampling.generate import generate
from lit_align.types import Prompts, Responses

Work = Callable[[], object]


def plain_draw(scores: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """By inverse CDF, over the whole vocabulary at once."""
    logps = scores.log_softmax(-1)
    sums = logps.exp().cumsum(-1)
    drawn = torch.searchsorted(sums, uniforms[:, None] * sums[:, -1:], right=True).clamp(max=scores.shape[-1] - 1)
    return drawn.squeeze(-1), logps.gather(-1, drawn).squeeze(-1)


GENERATION, SCORING = "lit_align.models.generation", "lit_align.models.scoring"
SAMPLING = "lit_align.sampling.generate"
# As models are read whose attention cannot be exchanged.
PADDED = {f"{SCORING}.token_logps.has_ragged_attention": lambda _: False}
BESIDE = {"lit_align.models.language_model.merged_adapters": nullcontext}
REPEATED = {f"{GENERATION}.next_token.has_plain_layers": lambda _: False}


@dataclass(frozen=True)
class Saving:
    """What is patched to take a saving away, and the work it is measured on.

    Attributes:
        name: Of the saving.
        on: Name of the work.
        without: What to patch, and with what.
    """

    name: str
    on: str
    without: dict[str, Any]


LONG = "sampling, long prompts"
SAVINGS = [
    Saving("a prompt's cache once a group", "sampling", REPEATED),
    Saving("a prompt's cache once a group", LONG, REPEATED),
    Saving("what all prompts begin with, once", LONG, {f"{GENERATION}.read_prompts.shared_tokens": lambda *_: 0}),
    Saving("drawing by blocks, one exponential", "sampling", {f"{SAMPLING}.draw": plain_draw}),
    Saving(
        "rows that have ended make way",
        "sampling, short among long",
        {"lit_align.models.language_model.generate": partial(generate, compact=2.0)},
    ),
    Saving("adapters added to their weights", "sampling, adapters", BESIDE),
    Saving("a batch in one line", "step", PADDED),
    Saving("a batch in one line", "step, short", PADDED),
    Saving("a batch in one line", "step, long", PADDED),
    Saving("what all prompts begin with, once", "step, short", {f"{SCORING}.unpadded.shared_tokens": lambda *_: 0}),
    Saving("head in parts, never all logits", "step", {f"{SCORING}.target_logps.logit_transform_of": lambda _: None}),
]


def sampling(policy: LanguageModel, case: Case) -> Work:
    """Responses to a few prompts."""
    pool = read("pool:topics_train")
    prompts = policy.encode([pool[i] for i in range(case.prompts)])
    lengths = prescribed_lengths(case.prompts * case.group, case.tokens) if case.prescribed else None
    return lambda: ours(policy, prompts, case, lengths, 0)


def step(policy: LanguageModel, prompts: Prompts, answers: Tensor, mask: Tensor | None = None) -> Work:
    """A forward and a backward pass over groups."""
    mask = torch.ones_like(answers, dtype=torch.bool) if mask is None else mask
    responses = Responses(prompts, answers, mask, mask[..., 0], torch.zeros(answers.shape))

    def work() -> None:
        policy.logps(responses).sum().backward()
        policy.zero_grad(set_to_none=True)

    return work


def short(policy: LanguageModel) -> Work:
    """Chats that begin with the same system message, two responses of up to 32 tokens each."""
    pool = read("pool:topics_train")
    prompts = policy.encode([pool[i] for i in range(16)])
    lengths = torch.randint(8, 33, (16, 2), generator=torch.Generator().manual_seed(0))
    return step(policy, prompts, torch.randint(100, 40_000, (16, 2, 32)), torch.arange(32) < lengths[..., None])


def works() -> dict[str, Work]:
    """All that is measured, by name."""
    plain = LanguageModel(QUICKSTART, system="Answer in one short sentence.")
    wordy = LanguageModel(QUICKSTART, system="Answer in one short sentence, and be kind to whoever asks. " * 16)
    adapted = LanguageModel(QUICKSTART, lora=LoRA())
    for policy in (plain, wordy, adapted):
        policy.load()
    ids, answers = (torch.tensor(part) for part in tokens())
    prompts = Prompts(ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(len(ids)), [{"prompt": ""}] * len(ids))
    long = torch.randint(100, 40_000, (1, 8, 192))
    return {
        "sampling": sampling(plain, Case("", 8, 8, 32)),
        LONG: sampling(wordy, Case("", 8, 8, 32)),
        "sampling, short among long": sampling(plain, Case("", 8, 8, 64, prescribed=True)),
        "sampling, adapters": sampling(adapted, Case("", 16, 2, 32)),
        "step": step(plain, prompts.select([0, 1, 2, 3]), answers[:4]),
        "step, short": short(plain),
        "step, long": step(plain, prompts.select([0]), long),
    }


def main(options: argparse.Namespace) -> None:
    """Time every saving, and write and print what it is worth."""
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    ready, rows = works(), []
    chosen = [saving for saving in SAVINGS if saving.on in (options.only or ready)]
    print("| saving | work | times as long without it |\n|---|---|--:|")
    for saving in chosen:
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for repeat in range(options.repeats + 1):
            for without in (False, True):
                with ExitStack() as patches:
                    for target, instead in (saving.without if without else {}).items():
                        module, _, name = target.rpartition(".")
                        patches.enter_context(mock.patch.object(sys.modules[module], name, instead))
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
    parser.add_argument(
        "--only", nargs="+", metavar="WORK", help="names of the table's second column; all unless given"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    main(parser.parse_args())
