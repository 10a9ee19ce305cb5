"""A policy in shards beside the same policy whole, in each of two processes: what they say and what they learn."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._python_dispatch import TorchDispatchMode

from lit_align import Extrapolated, LanguageModel, LoRA, MovingAverage, Sampler
from lit_align.models.sharding.cut import clip_flat, shard, shard_flat
from lit_align.models.sharding.gather import full_state, piece, trainable
from lit_align.types import Responses
from tests.conftest import prompts_of
from tests.draws import Margins, recorded
from tests.rounding import steps_apart

Weights = dict[str, torch.Tensor]

POLICIES: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"lora": LoRA(rank=4)},
    "lora on bfloat16": {"lora": LoRA(rank=4), "dtype": "bfloat16"},
    "lora on nf4": {"lora": LoRA(rank=4), "quantization": "nf4"},
    "lora on nf4, bfloat16": {"lora": LoRA(rank=4), "quantization": "nf4", "dtype": "bfloat16"},
}
CASES = [(name, flat) for name in POLICIES for flat in (False, True) if not (flat and "nf4" in name)]
CLIP = 0.5


@dataclass
class Seen:
    """What one rank saw.

    Attributes:
        draws: What it drew and what the whole policy draws, with the margins of that, at each round; on the second.
        gaps: Largest difference of a token's log-prob, in nats: (policy, reference, anchor) at each round.
        gathers: Collectives on entering the phases of sampling and scoring, and inside them.
        weights: Largest difference of a trained weight, on the first rank.
        exported: The same of an exported weight, in steps of the dtype that it is exported in.
        moved: How far a weight went at most.
        held: Share of all numbers that lies on this rank outside the phases, policy and reference.
    """

    draws: list[tuple[Responses, Responses, Margins]]
    gaps: list[tuple[float, float, float]]
    gathers: list[tuple[int, int]]
    weights: float | None
    exported: float | None
    moved: float
    held: float


class Collectives(TorchDispatchMode):
    """Counts what is asked of other ranks."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += "c10d" in func.namespace
        return func(*args, **(kwargs or {}))


def all_seen(model: str, folder: Path) -> dict[tuple[str, bool], Seen]:
    """Every kind of policy, sharded both ways."""
    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=10))  # a deadlock is an error
    # Adapters that begin here lead to log-probs that bfloat16 rounds by .07 nats when they are merged; others by .45.
    os.environ["PL_GLOBAL_SEED"] = "4"
    found = {(name, flat): seen(model, folder / f"{name}-{flat}", name, flat) for name, flat in CASES}
    torch.distributed.destroy_process_group()
    return found


def seen(model: str, folder: Path, name: str, flat: bool) -> Seen:
    """Two rounds of sampling, scoring and an optimiser step, by a policy in shards and by one that is whole."""
    rank, iterations = torch.distributed.get_rank(), 2
    whole, cut = loaded(model, name), loaded(model, name)
    cut.shard(flatten if flat else halve)
    initial = full_state(whole, frozen=False)
    average, moved = MovingAverage(0.5), Extrapolated(0.5)
    averages, moves = {whole: average, cut: MovingAverage(0.5)}, {whole: moved, cut: Extrapolated(0.5)}
    prompts, sampler = whole.encode(prompts_of(4)), Sampler(group_size=3, max_new_tokens=6)
    draws, gaps, gathers = [], [], []
    for iteration in range(iterations):
        for policy in (whole, cut):
            averages[policy].begin(policy, iteration)
            moves[policy].begin(policy, iteration)
            policy.eval()
        with recorded() as margins:
            drawn = sampler.respond(whole, prompts, seed=0, iteration=iteration)
        said = answers(whole, averages[whole], drawn)
        with torch.no_grad(), counted() as before, averages[cut].gathered(cut), cut.gathered(), counted() as inside:
            # The first rank has far less to do, and must not wait for the other.
            if rank == 0:
                few = Sampler(group_size=1, max_new_tokens=2)
                few.respond(cut, prompts.select([0]), seed=0, iteration=iteration)
                mine = answers(cut, averages[cut], drawn)
            else:
                draws.append((sampler.respond(cut, prompts, seed=0, iteration=iteration), drawn, margins))
                parts = [answers(cut, averages[cut], one) for one in ones(drawn)]
                mine = [torch.cat(column) for column in zip(*parts, strict=True)]
        gaps.append(tuple(float((ours - theirs).abs().max()) for ours, theirs in zip(mine, said, strict=True)))
        gathers.append((before.count - inside.count, inside.count))
        step(whole, drawn)
        step(cut, drawn.select(list(range(rank, len(drawn), 2))))
    one, other = full_state(whole, frozen=False), full_state(cut, frozen=False)
    cut.export(folder / "cut")
    first = rank == 0
    if first:
        whole.export(folder / "whole")
    return Seen(
        draws,
        gaps,
        gathers,
        difference(one, other) if first else None,
        in_steps(
            exported(folder / "whole"),
            exported(folder / "cut"),
            torch.bfloat16 if "bfloat16" in name else torch.float32,
        )
        if first
        else None,
        difference(one, initial) if first else 0.0,
        numbers(cut) / numbers(whole),
    )


def loaded(model: str, name: str) -> LanguageModel:
    torch.manual_seed(0)
    policy = LanguageModel(model, **POLICIES[name])
    policy.load()
    with torch.no_grad():
        for _, parameter in trainable(policy):
            parameter += 0.1 * torch.randn_like(parameter)  # the adapters of a new model do nothing
    return policy


def halve(network: torch.nn.Module) -> torch.nn.Module:
    return shard(network, init_device_mesh("cpu", (2,)))


def flatten(network: torch.nn.Module) -> torch.nn.Module:
    return shard_flat(network, device_id=torch.device("cpu"))


@torch.no_grad()
def answers(policy: LanguageModel, anchor: MovingAverage, responses: Any) -> list[torch.Tensor]:
    """Log-probs under policy, reference and anchor."""
    return [policy.logps(responses), policy.logps(responses, "reference"), anchor.logps(policy, responses)]


def ones(responses: Any) -> Iterator[Any]:
    return (responses.select([row]) for row in range(len(responses)))


def step(policy: LanguageModel, responses: Any) -> None:
    """A clipped step of SGD down the mean of all log-probs."""
    parameters = [parameter for _, parameter in trainable(policy)]
    policy.train()
    (policy.logps(responses).sum() / len(responses)).backward()
    if clip_flat(policy, CLIP) is None:
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
    torch.optim.SGD(parameters, lr=0.1).step()
    policy.zero_grad()


def numbers(policy: LanguageModel) -> int:
    return sum(piece(parameter).numel() for parameter in policy.parameters())


@contextmanager
def counted() -> Iterator[Collectives]:
    with Collectives() as mode:
        yield mode


def difference(first: Weights, second: Weights) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def in_steps(first: Weights, second: Weights, dtype: torch.dtype) -> float:
    assert first.keys() == second.keys()
    return max(steps_apart(second[name], first[name], dtype) for name in first)


def exported(folder: Path) -> Weights:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
