"""Exact WIND on many prompts at once, next to the same iterations prompt by prompt.

200 iterations on 1,000 prompts × 100 responses from 20 starting policies that share one preference matrix a prompt,
float64, one core:

    python benchmarks/games.py results.json

The loop over prompts does the same arithmetic for one prompt and one start at a time; it runs on a few prompts, and its
time is scaled up to all of them. Both are measured in one run, and their results compared on the prompts they share.
"""

import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from lit_align.games import random_skew, wind_iterates

PROMPTS, RESPONSES, STARTS, ITERATIONS = 1000, 100, 20, 200
BETA, ETA = 0.05, 0.2
LOOPED = 10


def one_by_one(reference: Tensor, preference: Tensor, starts: Tensor) -> Tensor:
    """The iterates as one would first write them: a loop over prompts, starts and iterations."""
    keep, scale = 1 / (1 + BETA * ETA), ETA / (1 + BETA * ETA)
    last = torch.empty_like(starts)
    for prompt in range(len(reference)):
        pull = (1 - keep) * reference[prompt].log()
        for start in range(len(starts)):
            policy = starts[start, prompt]
            for _ in range(ITERATIONS):
                policy = (keep * policy.log() + pull + scale * (preference[prompt] @ policy)).softmax(-1)
            last[start, prompt] = policy
    return last


def timed(function: Callable[[], Tensor]) -> tuple[float, Tensor]:
    begin = time.perf_counter()
    result = function()
    return time.perf_counter() - begin, result


def main(path: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    options = {"dtype": torch.float64, "generator": generator}
    preference = random_skew((PROMPTS,), RESPONSES, generator=generator)
    reference = torch.randn(PROMPTS, RESPONSES, **options).softmax(-1)
    starts = torch.randn(STARTS, PROMPTS, RESPONSES, **options).softmax(-1)

    together, last = timed(
        lambda: wind_iterates(reference, preference, beta=BETA, eta=ETA, iterations=ITERATIONS, start=starts)
    )
    looped, subset = timed(lambda: one_by_one(reference[:LOOPED], preference[:LOOPED], starts[:, :LOOPED]))
    difference = float((last[:, :LOOPED] - subset).abs().max())
    if difference > 1e-12:
        raise SystemExit(f"the two disagree by {difference}")
    scaled = looped * PROMPTS / LOOPED

    print(f"{'':<28}{'seconds':>10}{'ratio':>8}")
    print(f"{'all prompts and starts':<28}{together:>10.1f}{1:>8}")
    print(f"{f'one by one (x{PROMPTS // LOOPED} of {LOOPED})':<28}{scaled:>10.1f}{scaled / together:>8.1f}")
    row = {
        "prompts": PROMPTS,
        "responses": RESPONSES,
        "starts": STARTS,
        "iterations": ITERATIONS,
        "seconds": together,
        "seconds_one_by_one_scaled": scaled,
        "ratio": scaled / together,
        "largest_difference": difference,
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
    }
    path.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python benchmarks/games.py RESULTS.json")
    main(Path(sys.argv[1]))
