"""All tokens of a batch stand in one line, and attention runs over blocks of it: no padding is read.

A block is rows of queries and of the keys they may see, both by their places in the line. This attention takes the
place of a model's own where a forward pass brings blocks along, and is that of transformers everywhere else.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from lit_align.compat import attention_of, mask_as_sdpa, sdpa_attention, set_attention
from lit_align.models.attention import can_replace_attention

_NAME = "lit_align_ragged"  # of the attention, in transformers' registry


@dataclass(frozen=True)
class Places:
    """Rows of places in the line; what does not exist is at place 0 and not ``real``."""

    at: Int[Tensor, "*rows width"]
    real: Bool[Tensor, "*rows width"]


@dataclass(frozen=True)
class AttentionBlock:
    """Queries and the keys they may see, row by row.

    Attributes:
        queries: Places of the queries.
        keys: Places of the keys.
        seen: Which keys each query may see, if no window is in the way.
        position: Position id of every token in the line.
    """

    queries: Places
    keys: Places
    seen: Bool[Tensor, "rows queries keys"]
    position: Int[Tensor, " line"]

    @cached_property
    def answered(self) -> Int[Tensor, " tokens"] | None:
        """Which of the flattened queries are real, in the order of the line; None if all are."""
        real = self.queries.real.flatten()
        return None if bool(real.all()) else real.nonzero().squeeze(-1)

    @cached_property
    def _masks(self) -> dict[tuple[int | None, torch.dtype], Tensor]:
        return {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Float[Tensor, "rows 1 queries keys"]:
        """Additive: 0 where a key may be seen, the dtype's lowest number elsewhere."""
        if (window, dtype) not in self._masks:
            seen = self.seen
            if window is not None:
                asked, held = self.position[self.queries.at], self.position[self.keys.at]
                seen = seen & (held[:, None, :] > asked[:, :, None] - window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window, dtype] = mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
        return self._masks[window, dtype]

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, window: int | None, **options: Any
    ) -> Float[Tensor, "tokens heads width"]:
        """What the queries of this block read, in the order of the line.

        Args:
            query: Of all tokens, ``[line, heads, width]``; key and value likewise.
            key: With as many heads, or fewer that are shared.
            value: As keys.
            window: How far back a query sees; None is all the way.
            options: As for torch's ``scaled_dot_product_attention``.
        """
        asks, keys, values = (
            _Gathered.apply(states, places.at.flatten()).unflatten(0, places.at.shape).transpose(1, 2)
            for states, places in ((query, self.queries), (key, self.keys), (value, self.keys))
        )
        shared = asks.shape[1] // keys.shape[1]
        if shared > 1 and repeats_keys(query.device.type):
            keys, values = (states.repeat_interleave(shared, dim=1) for states in (keys, values))
        mask = self.mask(window, query.dtype)
        gqa = keys.shape[1] != asks.shape[1]
        read = F.scaled_dot_product_attention(asks, keys, values, mask, enable_gqa=gqa, **options)
        read = read.transpose(1, 2).flatten(0, 1)
        return read if self.answered is None else read.index_select(0, self.answered)


class _Gathered(torch.autograd.Function):
    """Rows by their places. Many may be of one place, so their gradients are summed in float32 at least."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, at: Tensor) -> Tensor:
        ctx.save_for_backward(at)
        ctx.shape = states.shape
        return states.index_select(0, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (at,) = ctx.saved_tensors
        precise = torch.promote_types(gradient.dtype, torch.float32)
        total = torch.zeros(ctx.shape, dtype=precise, device=gradient.device)
        return total.index_add_(0, at, gradient.to(precise)).to(gradient.dtype), None


def enable_ragged_attention(model: Any) -> None:
    """Let a model attend over blocks where it is given some, and as ever where it is not.

    Nothing happens to a model whose attention the tests do not know, or that was not asked to use the fast one.
    """
    if takes_ragged_attention(model.config, attention_of(model.config)):
        AttentionInterface.register(_NAME, _attention)
        mask_as_sdpa(_NAME)
        set_attention(model.config, _NAME)


def takes_ragged_attention(config: Any, attention: str | None) -> bool:
    """Whether a model of this config, loaded with this attention of transformers, will be read over blocks."""
    return can_replace_attention(config) and attention == "sdpa"


def repeats_keys(kind: str) -> bool:
    """Whether keys that heads share are repeated: but on CPUs, shared keys and a mask together are not taken fast."""
    return kind != "cpu"


def has_ragged_attention(model: Any) -> bool:
    """Whether a model can be read this way."""
    return attention_of(model.config) == _NAME


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    attention_blocks: list[AttentionBlock] | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention of transformers: over the blocks of this pass, if it has any."""
    if attention_blocks is None:
        read: tuple[Tensor, None] = sdpa_attention(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return read
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    options = {"scale": scaling, "dropout_p": dropout}
    found = [block.attend(query, key, value, sliding_window, **options) for block in attention_blocks]
    return torch.cat(found)[None], None
