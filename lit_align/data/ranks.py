"""An iteration is shared between devices: each answers its own prompts, then all hold the rollouts of every one.

Rank r of R answers prompts r, r + R, r + 2R, ... in the order they were dealt in. Baselines, statistics and the order
of the minibatches are then made from the same rollouts on every rank, those that a single device would hold.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_align.data.rollout_store import load_texts
from lit_align.types import Prompts, Responses, Rollouts

_T = TypeVar("_T")
_B = TypeVar("_B", Prompts, Responses, Rollouts)


def gathered(rollouts: Rollouts, world_size: int) -> Rollouts:
    """Return the rollouts of all ranks, in the order their prompts were dealt in; every rank has to call it.

    Args:
        rollouts: This rank's share, on the CPU.
        world_size: Number of ranks; a single one has everything already.
    """
    return interleaved(from_all_ranks(rollouts, world_size)).trim() if world_size > 1 else rollouts


def from_all_ranks(value: _T, world_size: int) -> list[_T]:
    """Return the values of all ranks, by rank; they are pickled, and every rank has to call it."""
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(values, value)
    return values


def interleaved(shares: Sequence[Rollouts]) -> Rollouts:
    """Return the rollouts of several ranks, listed by rank, as one, in the order their prompts were dealt in."""
    prompt = max(share.responses.prompts.ids.shape[1] for share in shares)
    length = max(share.responses.ids.shape[-1] for share in shares)
    whole = _joined([_widened(share, prompt, length) for share in shares])
    return whole.select(order_of_shares([len(share) for share in shares]))


def order_of_shares(sizes: Sequence[int]) -> list[int]:
    """Return where, in the ranks' shares laid end to end, the items are that were dealt first, second, and so on."""
    places = [(place, rank) for rank, size in enumerate(sizes) for place in range(size)]
    return sorted(range(len(places)), key=places.__getitem__)


def load_answers(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Return a run's prompts and first responses as text, as dealt; there are none where a rank's file is missing."""
    if not all(path.exists() for path in paths):
        return []
    shares = [load_texts(path) for path in paths]
    answers = [(prompt, texts[0]) for share in shares for prompt, texts in share]
    return [answers[place] for place in order_of_shares([len(share) for share in shares])]


def _widened(rollouts: Rollouts, prompt: int, length: int) -> Rollouts:
    responses = rollouts.responses
    prompts, left = responses.prompts, (prompt - responses.prompts.ids.shape[1], 0)
    right = (0, length - responses.ids.shape[-1])
    wider = replace(
        rollouts,
        responses=replace(
            responses,
            prompts=replace(prompts, ids=pad(prompts.ids, left), mask=pad(prompts.mask, left)),
            ids=pad(responses.ids, right),
            mask=pad(responses.mask, right),
            sample_logps=pad(responses.sample_logps, right),
        ),
    )
    return wider.with_token_logps({policy: pad(value, right) for policy, value in rollouts.token_logps.items()})


def _joined(parts: Sequence[_B]) -> _B:
    """Return batches of equal widths as one, the rows of each after those of the one before."""
    changed: dict[str, Any] = {}
    for item in fields(parts[0]):
        values = [getattr(part, item.name) for part in parts]
        if isinstance(values[0], Tensor):
            changed[item.name] = torch.cat(values)
        elif isinstance(values[0], list):
            changed[item.name] = [row for rows in values for row in rows]
        elif isinstance(values[0], Prompts | Responses):
            changed[item.name] = _joined(values)
    return replace(parts[0], **changed)
