"""Next-token logits of a Hugging Face causal LM with a key-value cache."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lit_align.models.cache import with_room


class CachedModel:
    """Feeds a causal LM one token at a time; the prompt's cache is computed once and shared out to its group.

    Args:
        model: A Hugging Face causal LM in eval mode.
        around: Context of every forward pass, such as one without adapters.
    """

    def __init__(self, model: nn.Module, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.model = model
        self.around = around

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read left-padded prompts; the cache then has ``group_size`` rows for each."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with self.around():
            output = self.model(
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
            )
        self.cache = output.past_key_values
        self.cache.batch_repeat_interleave(group_size)
        self.cache = with_room(self.cache)
        self.mask = mask.long().repeat_interleave(group_size, dim=0)
        self.position = mask.sum(1).repeat_interleave(group_size)
        logits: Tensor = output.logits[:, -1]
        return logits

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every row and return what comes next."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        with self.around():
            output = self.model(
                input_ids=tokens[:, None],
                attention_mask=self.mask,
                position_ids=self.position[:, None],
                past_key_values=self.cache,
                use_cache=True,
            )
        self.position = self.position + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop every other row from the cache."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]
