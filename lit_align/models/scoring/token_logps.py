"""Responses are scored under a Hugging Face causal LM, as few at a time as memory asks for.

The batch is read in one line where the model's attention allows it, and in padded rows, each a prompt and a response,
where it does not. Either way a group may be split into smaller ones, which are scored like any others and joined again.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lit_align.models.changing_frequencies import begin_afresh
from lit_align.models.scoring.layout import TOKENS_AT_ONCE, Layout, layout_of
from lit_align.models.scoring.padded import padded_token_logps
from lit_align.models.scoring.ragged_attention import has_ragged_attention
from lit_align.models.scoring.unpadded import unpadded_token_logps
from lit_align.types import Responses

ScoringWay = Literal["line", "padded", "alone"]
"""A model reads responses in one of these ways: a batch in one line, each in a padded row, or each in its own pass."""

Score = Callable[[Any, Responses], Float[Tensor, "batch group length"]]


def token_logps(
    model: Any, responses: Responses, *, alone: bool = False, tokens_at_once: int = TOKENS_AT_ONCE
) -> Float[Tensor, "batch group length"]:
    """Return log pi(y_t | x, y_<t) of every response token, float32, nats, 0 on padding.

    Without gradients, a few groups or a part of one are read at a time, which bounds memory.

    Args:
        model: A causal language model; it is read in a line where it :func:`has_ragged_attention`.
        responses: They are trimmed, and on the model's device.
        alone: Each response is read in a pass of its own.
        tokens_at_once: Most tokens read together without gradients, unless one response has more.
    """
    score, layout = (_alone, Layout(responses.group_size, 1)) if alone else _way(model, responses, tokens_at_once)
    parts = split_groups(responses, layout.parts)
    found = [score(model, parts.select(rows.tolist())) for rows in torch.arange(len(parts)).split(layout.at_once)]
    return join_groups(torch.cat(found), responses.group_size, layout.parts)


def split_groups(responses: Responses, parts: int) -> Responses:
    """Split each group into groups of equal size; the last may have responses without tokens."""
    if parts == 1:
        return responses
    size = -(-responses.group_size // parts)
    missing = parts * size - responses.group_size

    def cut(values: Tensor) -> Tensor:
        filled = F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))
        return filled.reshape(-1, size, *values.shape[2:])

    return replace(
        responses,
        prompts=responses.prompts.select(torch.arange(len(responses)).repeat_interleave(parts).tolist()),
        ids=cut(responses.ids),
        mask=cut(responses.mask),
        truncated=cut(responses.truncated),
        sample_logps=cut(responses.sample_logps),
    )


def join_groups(
    values: Float[Tensor, "parts size length"], group: int, parts: int
) -> Float[Tensor, "batch group length"]:
    """Join what was found for the parts into whole groups again."""
    return values.reshape(len(values) // parts, -1, values.shape[-1])[:, :group]


def _way(model: Any, responses: Responses, tokens_at_once: int) -> tuple[Score, Layout]:
    """Return how to score, and how many together."""
    unpadded = has_ragged_attention(model)
    layout = layout_of(
        responses.prompts.ids.shape[1],
        responses.group_size,
        responses.ids.shape[-1],
        len(responses),
        unpadded=unpadded,
        gradients=torch.is_grad_enabled(),
        tokens_at_once=tokens_at_once,
    )
    return unpadded_token_logps if unpadded else padded_token_logps, layout


def _alone(model: Any, responses: Responses) -> Float[Tensor, "batch group length"]:
    begin_afresh(model)
    return padded_token_logps(model, responses)
