"""A batch of prompts is read at once; a beginning that they share, such as a system message, is read only once."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache

from lit_align.compat import has_plain_layers

_WORTH = 8  # a beginning of fewer tokens is not worth a forward pass of its own


def read_prompts(
    model: Any, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"]
) -> tuple[Float[Tensor, "batch vocab"], Cache, Bool[Tensor, "batch columns"]]:
    """Return the logits after left-padded prompts, the cache, and which columns of the cache are tokens."""
    shared = shared_tokens(ids, mask)
    if len(ids) == 1 or shared < _WORTH:
        return _read(model, ids, mask)
    beginning = ids[:1, -int(mask[0].sum()) :][:, :shared]
    _, cache, _ = _read(model, beginning, torch.ones_like(beginning, dtype=torch.bool))
    if not has_plain_layers(cache):  # a window counts columns, padding too
        return _read(model, ids, mask)
    cache.batch_repeat_interleave(len(ids))
    rest = mask & (mask.cumsum(1) > shared)
    start = int(rest.any(0).long().argmax())
    return _read(model, ids[:, start:], rest[:, start:], cache, shared)


def shared_tokens(ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"]) -> int:
    """Return how many first tokens all prompts share; at least one of each prompt is left to read."""
    first, _ = tokens_first(ids, mask)
    shortest = max(0, int(mask.sum(1).min()) - 1)
    same = (first == first[:1]).all(0)[:shortest]
    return int(same.long().cumprod(0).sum())


def tokens_first(
    ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"]
) -> tuple[Int[Tensor, "batch width"], Bool[Tensor, "batch width"]]:
    """Move the padding of prompts, on whichever side it is, behind their tokens; the longest sets the width."""
    order = (~mask).byte().argsort(dim=1, stable=True)[:, : int(mask.sum(1).max())]
    return ids.gather(1, order), mask.gather(1, order)


def _read(
    model: Any, ids: Tensor, mask: Tensor, cache: Cache | None = None, before: int = 0
) -> tuple[Tensor, Cache, Tensor]:
    columns = F.pad(mask, (before, 0), value=True)
    output = model(
        input_ids=ids,
        attention_mask=columns.long(),
        position_ids=(before + mask.cumsum(1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1], output.past_key_values, columns
