"""A group's responses share one copy of their prompt's keys and values, instead of one copy each.

A row is one response on its way. The cache keeps the prompts apart from what the rows add to them, and the model's
attention is replaced by one that reads both. A step's queries are many short sequences over few prompts: against a
prompt, the queries of its whole group are one matrix product; against its own tokens, each row has its own. Both kinds
of scores pass through one softmax, so the result is that of attention over the whole sequence. Rows end at different
times, and rows of more prompts may join: :class:`RowLayout` knows which prompt a row belongs to and how long it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache, DynamicLayer

from lit_align.compat import exchange_layers, initialize_layer
from lit_align.models.attention import check_known, replaced_attention
from lit_align.models.generation.row_cache import ROOM, stacked

_NAME = "lit_align_grouped"  # transformers' registry has the attention under this name
_asked: ContextVar["GroupCacheLayer"] = ContextVar("asked")  # this layer's keys were updated last


class GroupCache:
    """Caches keys and values of a batch of groups, for models whose attention can be replaced.

    Args:
        cache: A cache of transformers that has read the prompts.
        mask: True on the prompts' tokens.
        group_size: Number of rows of each prompt.
    """

    admits = True

    def __init__(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        self.layout = RowLayout(mask, group_size)
        self.cache = cache
        exchange_layers(cache, partial(GroupCacheLayer, layout=self.layout))

    @contextmanager
    def reading(self, model: Any) -> Iterator[dict[str, Any]]:
        """Yield the arguments of a forward pass over one token of each row, which belongs to the row afterwards."""
        with replaced_attention(model.config, _NAME, _attention):
            yield {"past_key_values": self.cache}
        self.layout.advance()

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        prompts = self.layout.keep(rows.cpu()).to(rows.device)
        for layer in self.cache.layers:
            layer.keep(rows, prompts)

    def add(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        """Add the rows of more prompts after those that are there."""
        self.layout.add(mask, group_size)
        for layer, more in zip(self.cache.layers, cache.layers, strict=True):
            layer.add(more, len(mask) * group_size)


class GroupCacheLayer(DynamicLayer):
    """Caches one layer's keys and values: the prompts' once, ``[batch, heads, prompt, width]``, and each row's own.

    It takes over those of a layer that has read the prompts; all layers share the layout.
    """

    def __init__(self, prompts: DynamicLayer, layout: "RowLayout") -> None:
        super().__init__()
        initialize_layer(self, like=prompts)
        self.layout = layout
        self.prompt_keys, self.prompt_values = prompts.keys, prompts.values
        self._buffers = tuple(_room(states, len(layout), ROOM) for states in (prompts.keys, prompts.values))
        self.keys, self.values = (buffer[:, :, :0] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append one token to every row; return the rows' own keys and values."""
        end = self.layout.longest + 1
        if end > self._buffers[0].shape[-2]:
            self._buffers = tuple(F.pad(buffer, (0, 0, 0, ROOM)) for buffer in self._buffers)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            self.layout.write(buffer, states[:, :, 0])
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        _asked.set(self)
        return self.keys, self.values

    def attend(self, query: Float[Tensor, "rows heads 1 width"], scaling: float) -> Float[Tensor, "rows 1 heads width"]:
        """Return what each row's last token reads from its prompt and its own tokens."""
        layout, heads = self.layout, self.prompt_keys.shape[1]
        asks = (query * scaling).reshape(len(query), heads, -1, query.shape[-1])  # the queries of one key head together
        of_prompt = layout.by_row(self._over_prompts(layout.by_prompt(asks), self.prompt_keys.mT, layout.bias))
        of_own = asks @ self.keys.mT
        if layout.hidden is not None:
            of_own = of_own.masked_fill(layout.hidden, -torch.inf)
        precise = torch.promote_types(query.dtype, torch.float32)
        weights = torch.cat([of_prompt, of_own], dim=-1).softmax(-1, dtype=precise).to(query.dtype)
        to_prompt, to_own = weights.split([of_prompt.shape[-1], of_own.shape[-1]], dim=-1)
        read: Tensor = (
            layout.by_row(self._over_prompts(layout.by_prompt(to_prompt), self.prompt_values)) + to_own @ self.values
        )
        return read.reshape(len(query), 1, -1, read.shape[-1])

    def keep(self, rows: Int[Tensor, " kept"], prompts: Int[Tensor, " prompts"]) -> None:
        """Drop all rows but these, and all prompts but those they answer."""
        self._buffers = tuple(buffer[rows] for buffer in self._buffers)
        if len(prompts) < len(self.prompt_keys):
            self.prompt_keys, self.prompt_values = self.prompt_keys[prompts], self.prompt_values[prompts]

    def add(self, prompts: DynamicLayer, rows: int) -> None:
        """Add the rows of more prompts after those that are there."""
        self.prompt_keys = stacked(self.prompt_keys, prompts.keys)
        self.prompt_values = stacked(self.prompt_values, prompts.values)
        self._buffers = tuple(torch.cat([b, b.new_zeros(rows, *b.shape[1:])]) for b in self._buffers)

    @staticmethod
    def _over_prompts(
        groups: Float[Tensor, "batch width heads repeats _"],
        matrices: Float[Tensor, "batch heads _ _"],
        bias: Float[Tensor, "batch 1 1 _"] | None = None,
    ) -> Float[Tensor, "batch width heads repeats _"]:
        """Multiply each group's rows by its prompt's matrix, head by head."""
        batch, width, heads, repeats, _ = groups.shape
        product = groups.transpose(1, 2).reshape(batch, heads, width * repeats, -1) @ matrices
        product = product if bias is None else product + bias
        return product.view(batch, heads, width, repeats, -1).transpose(1, 2)


class RowLayout:
    """Says which prompt each row belongs to and how long it is; lengths may differ, and a group may have lost rows.

    What decides shapes is kept on the host, so that a step never waits for the device.

    Attributes:
        longest: Number of own tokens of the longest row.
        column: Number of own tokens of each row, the place of its next one; None where all rows have the same.
        hidden: True on places beyond each row's next token; None where there are none.
        bias: 0 on the prompts' tokens, -inf on their padding.
    """

    def __init__(self, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        self.mask = mask
        self.prompt = torch.arange(len(mask)).repeat_interleave(group_size)
        self.filled = torch.zeros(len(self.prompt), dtype=torch.long)
        self.column: Tensor | None = None
        self.hidden: Tensor | None = None
        self._place: Tensor | None = None
        self._arrange()

    def __len__(self) -> int:
        return len(self.prompt)

    def add(self, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        """Add the rows of more prompts after those that are there."""
        width = max(mask.shape[1], self.mask.shape[1])
        self.prompt = torch.cat([self.prompt, len(self.mask) + torch.arange(len(mask)).repeat_interleave(group_size)])
        self.mask = torch.cat([F.pad(part, (width - part.shape[1], 0)) for part in (self.mask, mask)])
        self.filled = torch.cat([self.filled, self.filled.new_zeros(len(mask) * group_size)])
        self._arrange()

    def keep(self, rows: Int[Tensor, " kept"]) -> Int[Tensor, " prompts"]:
        """Drop all other rows; return the prompts that still have one."""
        prompts: Tensor
        prompts, self.prompt = self.prompt[rows].unique(return_inverse=True)
        self.filled = self.filled[rows]
        self.mask = self.mask[prompts.to(self.mask.device)]
        self._arrange()
        return prompts

    def advance(self) -> None:
        """Count one token more for every row."""
        self.filled = self.filled + 1
        self.longest += 1
        if self.column is not None:
            self.column = self.column + 1
            self.hidden = self._hidden(self.column)

    def write(self, buffer: Float[Tensor, "rows heads own width"], states: Float[Tensor, "rows heads width"]) -> None:
        """Put each row's next token where it belongs."""
        if self.column is None:
            buffer[:, :, self.longest] = states
        else:
            buffer[torch.arange(len(buffer), device=buffer.device), :, self.column] = states

    def by_prompt(self, rows: Float[Tensor, "rows ..."]) -> Float[Tensor, "batch width ..."]:
        """Put the rows of each prompt side by side, with 0 in empty places."""
        shape = (len(self.mask), self._width, *rows.shape[1:])
        if self._place is None:
            return rows.view(shape)
        return rows.new_zeros(shape).flatten(0, 1).index_copy(0, self._place, rows).view(shape)

    def by_row(self, groups: Float[Tensor, "batch width ..."]) -> Float[Tensor, "rows ..."]:
        """Undo :meth:`by_prompt`."""
        rows = groups.flatten(0, 1)
        return rows if self._place is None else rows[self._place]

    def _arrange(self) -> None:
        device = self.mask.device
        places, self._width = _side_by_side(self.prompt, len(self.mask))
        regular = torch.equal(places, torch.arange(len(self.mask) * self._width))
        self._place = None if regular else places.to(device)
        self.bias = torch.zeros(self.mask.shape, device=device).masked_fill(~self.mask, -torch.inf)[:, None, None]
        self.longest = int(self.filled.max())
        even = bool((self.filled == self.longest).all())
        self.column = None if even else self.filled.to(device)
        self.hidden = None if self.column is None else self._hidden(self.column)

    def _hidden(self, column: Int[Tensor, " rows"]) -> Bool[Tensor, "rows 1 1 own"]:
        return (torch.arange(self.longest + 1, device=column.device) > column[:, None])[:, None, None]


def _room(prompts: Tensor, rows: int, tokens: int) -> Tensor:
    # It is filled with 0: what a row does not have is weighed with 0, and 0 times what fresh memory holds may be nan.
    return prompts.new_zeros(rows, prompts.shape[1], tokens, prompts.shape[-1])


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend in the layer whose keys these are, called as an attention of transformers."""
    del module, value, mask, dropout, sliding_window  # a model with windows has another cache
    check_known(kwargs)
    layer = _asked.get()
    assert key is layer.keys
    return layer.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None


def _side_by_side(prompt: Int[Tensor, " rows"], prompts: int) -> tuple[Int[Tensor, " rows"], int]:
    """Return the place of each row where a prompt's stand side by side, and the size of the largest group."""
    counts = torch.bincount(prompt, minlength=prompts)
    order = prompt.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(prompt)) - (counts.cumsum(0) - counts)[prompt[order]]
    width = int(counts.max())
    return prompt * width + rank, width
