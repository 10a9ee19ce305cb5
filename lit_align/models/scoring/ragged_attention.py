"""All tokens of a batch stand in one line, and attention runs over blocks of it: no padding is read.

A block is rows of queries and of the keys they may see, both by their places in the line. This attention takes the
place of a model's own where a forward pass brings blocks along, and is that of transformers everywhere else.
"""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface

from lit_align.compat import attention_of, mask_as, set_attention, usual_attention
from lit_align.models.attention import check_known

_NAMES = {"sdpa": "lit_align_ragged", "eager": "lit_align_ragged_eager"}
"""Each attention of transformers is replaced by the one that its registry has under this name."""


@dataclass(frozen=True)
class Places:
    """Holds rows of places in the line; what does not exist is at place 0 and not ``real``."""

    at: Int[Tensor, "*rows width"]
    real: Bool[Tensor, "*rows width"]


@dataclass(frozen=True)
class AttentionBlock:
    """Holds the places of queries and of the keys they may see, row by row.

    Attributes:
        seen: True on the keys that a query may see, if no window is in the way.
        position: Position id of every token in the line.
    """

    queries: Places
    keys: Places
    seen: Bool[Tensor, "rows queries keys"]
    position: Int[Tensor, " line"]

    @cached_property
    def answered(self) -> Int[Tensor, " tokens"] | None:
        """Return which of the flattened queries are real, in the order of the line; None if all are."""
        real = self.queries.real.flatten()
        return None if bool(real.all()) else real.nonzero().squeeze(-1)

    @cached_property
    def _masks(self) -> dict[tuple[int | None, torch.dtype], Tensor]:
        return {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Float[Tensor, "rows 1 queries keys"]:
        """Return an additive mask: 0 where a key may be seen, the dtype's lowest number elsewhere."""
        if (window, dtype) not in self._masks:
            seen = self.seen
            if window is not None:
                asked, held = self.position[self.queries.at], self.position[self.keys.at]
                seen = seen & (held[:, None, :] > asked[:, :, None] - window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window, dtype] = mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
        return self._masks[window, dtype]

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        softcap: float | None = None,
        sinks: Tensor | None = None,
        **options: Any,
    ) -> Float[Tensor, "tokens heads width"]:
        """Return what the queries of this block read, in the order of the line.

        Args:
            query: Queries of all tokens, ``[line, heads, width]``; key and value likewise.
            key: It has as many heads as the queries, or fewer, which are then shared.
            value: It is as wide as the keys.
            window: Number of tokens back that a query sees; None is all of them.
            softcap: Scores are capped to plus and minus this number (Gemma 2); None caps nothing.
            sinks: One score a head for a key that has no value (GPT-OSS); None is no such key.
            options: As for torch's ``scaled_dot_product_attention``.
        """
        asks, keys, values = (
            _Gathered.apply(states, places.at.flatten()).unflatten(0, places.at.shape).transpose(1, 2)
            for states, places in ((query, self.queries), (key, self.keys), (value, self.keys))
        )
        explicit = softcap is not None or sinks is not None
        shared = asks.shape[1] // keys.shape[1]
        if shared > 1 and (explicit or repeats_keys(query.device.type)):
            keys, values = (states.repeat_interleave(shared, dim=1) for states in (keys, values))
        mask = self.mask(window, query.dtype)
        if explicit:
            read = _explicit_attention(asks, keys, values, mask, softcap, sinks, **options)
        else:
            gqa = keys.shape[1] != asks.shape[1]
            read = F.scaled_dot_product_attention(asks, keys, values, mask, enable_gqa=gqa, **options)
        read = read.transpose(1, 2).flatten(0, 1)
        return read if self.answered is None else read.index_select(0, self.answered)


def _explicit_attention(
    asks: Float[Tensor, "rows heads queries width"],
    keys: Float[Tensor, "rows heads keys width"],
    values: Float[Tensor, "rows heads keys _"],
    mask: Float[Tensor, "rows 1 queries keys"],
    softcap: float | None,
    sinks: Float[Tensor, " heads"] | None,
    scale: float | None = None,
) -> Float[Tensor, "rows heads queries _"]:
    """Attend with scores that are capped, or with a key that nothing is read from."""
    scores = asks @ keys.mT * (asks.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, -1, 1, 1).expand(*scores.shape[:3], 1).to(scores.dtype)], dim=-1)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(values.dtype)
    return weights[..., : values.shape[-2]] @ values


class _Gathered(torch.autograd.Function):
    """Takes rows by their places; many may be of one place, so gradients are summed in float32 at least."""

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
    """Let a model attend over blocks where it is given some, and as before where it is not."""
    usual = attention_of(model.config)
    if usual in _NAMES:
        AttentionInterface.register(_NAMES[usual], partial(_attention, usual=usual))
        mask_as(_NAMES[usual], usual)
        set_attention(model.config, _NAMES[usual])


def disable_ragged_attention(model: Any) -> None:
    """Let a model attend as before :func:`enable_ragged_attention`."""
    usual = {name: usual for usual, name in _NAMES.items()}
    set_attention(model.config, usual.get(str(attention_of(model.config)), attention_of(model.config)))


def repeats_keys(kind: str) -> bool:
    """Say whether keys are repeated for the heads that share them: GPUs are slow with shared keys and a mask."""
    return kind != "cpu"


def has_ragged_attention(model: Any) -> bool:
    """Say whether a model attends over blocks."""
    return attention_of(model.config) in _NAMES.values()


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    attention_blocks: list[AttentionBlock] | None = None,
    *,
    usual: str,
    **kwargs: Any,
) -> tuple[Tensor, Any]:
    """Attend over the blocks of this pass if it has any, called as an attention of transformers."""
    if attention_blocks is None:
        read: tuple[Tensor, Any] = usual_attention(usual, module)(module, query, key, value, mask, **kwargs)
        return read
    return over_blocks(query, key, value, attention_blocks, **kwargs), None


def over_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    blocks: list[AttentionBlock],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Return what all tokens of a line read, ``[1, line, heads, width]``; the blocks' queries are the line, in order.

    Queries, keys and values are ``[1, heads, line, width]``. The other arguments are those that transformers passes to
    an attention: scores are multiplied by ``scaling``, None being one over the root of the width, and ``s_aux`` holds
    the sinks of :meth:`AttentionBlock.attend`, which describes the rest.

    Raises:
        ValueError: The model asks for dropout, or for more than is known here.
    """
    check_known(kwargs)
    if dropout:
        raise ValueError("attention over blocks has no dropout")
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    found = [
        block.attend(query, key, value, sliding_window, softcap=softcap, sinks=s_aux, scale=scaling) for block in blocks
    ]
    return torch.cat(found)[None]
