"""A whole batch is scored in one sequence: every token is read once, and no padding is.

The tokens stand in a line: what all prompts begin with (a system message, say), what is left of each prompt, and all
responses. Whatever works token by token, which is all but the attention, then does nothing twice and nothing in vain.
The attention runs over blocks of tokens that belong together, with position ids as in a sequence of their own.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lit_align.models.generation.read_prompts import shared_tokens, tokens_first
from lit_align.models.scoring.layout import responses_per_row
from lit_align.models.scoring.ragged_attention import AttentionBlock, Places
from lit_align.models.scoring.target_logps import target_token_logps
from lit_align.types import Responses


@dataclass(frozen=True)
class Line:
    """Holds all tokens of a batch, one after the other.

    Attributes:
        ids: Token ids; the last token of a response predicts nothing and is left out.
        positions: Position ids, counted from each prompt's first token.
        blocks: Which tokens attend to which; together their queries are the line, in its order.
        predictors: Place at which each response token is predicted, in the order of the responses' mask.
    """

    ids: Int[Tensor, " line"]
    positions: Int[Tensor, " line"]
    blocks: list[AttentionBlock]
    predictors: Int[Tensor, " tokens"]


def unpadded_token_logps(model: Any, responses: Responses) -> Float[Tensor, "batch group length"]:
    """Return log-probs as :func:`target_token_logps` does; the model is one that :func:`has_ragged_attention`."""
    line = line_up(responses)
    inputs = {
        "input_ids": line.ids[None],
        "attention_mask": torch.zeros(1, 1, 1, 1, device=line.ids.device),  # a mask of four dimensions is left as it is
        "position_ids": line.positions[None],
        "use_cache": False,
        "attention_blocks": line.blocks,
    }
    return target_token_logps(model, inputs, line.predictors, responses)


def line_up(responses: Responses) -> Line:
    """Put the tokens of a batch in a line, without padding on either side, and say which attend to which."""
    device = responses.ids.device
    prompts = responses.prompts
    prompt_ids, in_prompt = tokens_first(prompts.ids, prompts.mask)
    asked, width = in_prompt.sum(1), in_prompt.shape[1]
    shared = shared_tokens(prompts.ids, prompts.mask) if len(prompts) > 1 else 0
    column, step = torch.arange(width, device=device), torch.arange(responses.ids.shape[-1], device=device)
    left = asked - shared
    rest = shared + left.cumsum(0) - left  # the rest of each prompt begins here
    prompt_at = torch.where(column < shared, column, rest[:, None] + column - shared)
    slots = (responses.lengths - 1).clamp(min=0)
    begin = shared + left.sum() + (slots.flatten().cumsum(0) - slots.flatten()).view(slots.shape)
    response_at, in_response = begin[..., None] + step, step < slots[..., None]
    total = shared + int(left.sum()) + int(slots.sum())

    def laid_out(of_prompts: Tensor, of_responses: Tensor) -> Tensor:
        line = torch.zeros(total, dtype=torch.long, device=device)
        line[prompt_at[in_prompt]] = of_prompts.expand_as(prompt_at)[in_prompt]
        line[response_at[in_response]] = of_responses.expand_as(response_at)[in_response]
        return line

    positions = laid_out(column, asked[:, None, None] + step)
    last = prompt_at.gather(1, asked[:, None] - 1)
    predictors = torch.where(step == 0, last[..., None], response_at - 1)
    asking = _places(prompt_at, in_prompt)
    width = int(slots.max())  # the longest response has so many tokens that predict another
    own = _places(response_at[..., :width], in_response[..., :width])
    return Line(
        ids=laid_out(prompt_ids, responses.ids),
        positions=positions,
        blocks=[*_of_prompts(asking, shared, positions), *_of_responses(asking, own, positions)],
        predictors=predictors[responses.mask],
    )


def _places(at: Tensor, real: Tensor) -> Places:
    return Places(at.masked_fill(~real, 0), real)


def _of_prompts(prompts: Places, shared: int, positions: Tensor) -> list[AttentionBlock]:
    """Let the shared beginning attend to itself, and what is left of each prompt to the whole prompt."""
    order = torch.arange(prompts.at.shape[1], device=prompts.at.device)
    seen = (order <= order[:, None]) & prompts.real[:, None, :]
    rest = Places(prompts.at[:, shared:], prompts.real[:, shared:])
    blocks = [AttentionBlock(rest, prompts, seen[:, shared:], positions)]
    if shared:
        beginning = Places(prompts.at[:1, :shared], prompts.real[:1, :shared])
        blocks.insert(0, AttentionBlock(beginning, beginning, seen[:1, :shared, :shared], positions))
    return blocks


def _of_responses(prompts: Places, own: Places, positions: Tensor) -> list[AttentionBlock]:
    """Let each response attend to its prompt and to itself; several short ones share a row."""
    batch, group, length = own.at.shape
    if length == 0:
        return []
    size = responses_per_row(prompts.at.shape[1], length, group)
    missing = -group % size
    at, real = (F.pad(places, (0, 0, 0, missing)).reshape(-1, size * length) for places in (own.at, own.real))
    repeats = len(at) // batch
    before = Places(*(places.repeat_interleave(repeats, dim=0) for places in (prompts.at, prompts.real)))
    order = torch.arange(size * length, device=at.device)
    same = (order[:, None] // length == order // length) & (order <= order[:, None])
    seen = torch.cat([before.real[:, None, :].expand(-1, size * length, -1), same & real[:, None, :]], dim=-1)
    keys = Places(torch.cat([before.at, at], 1), torch.cat([before.real, real], 1))
    return [AttentionBlock(Places(at, real), keys, seen, positions)]
