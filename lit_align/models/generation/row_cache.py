"""A cache for any architecture holds each row's whole sequence, with room to write the next tokens in place."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache, DynamicLayer
from typing_extensions import override

from lit_align.compat import exchange_layers, has_plain_layers, has_states, initialize_layer

ROOM = 64  # room is made for so many tokens at once


class RoomyLayer(DynamicLayer):
    """Takes over a layer's keys and values, ``[rows, heads, tokens, head_dim]``, as views of larger buffers."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        initialize_layer(self, like=layer)
        self.keys, self.values = layer.keys, layer.values
        self._buffers = (self.keys, self.values)

    @override
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, added = self.keys.shape[-2], key_states.shape[-2]
        if start + added > self._buffers[0].shape[-2]:
            self._buffers = (_widened(self.keys, added + ROOM), _widened(self.values, added + ROOM))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : start + added] = states
        self.keys, self.values = (buffer[:, :, : start + added] for buffer in self._buffers)
        return self.keys, self.values

    @override
    def batch_select_indices(self, indices: Tensor) -> None:
        length = self.keys.shape[-2]
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)

    def add(self, more: DynamicLayer) -> None:
        """Add more rows after those that are there, padded on the left where needed."""
        self.keys, self.values = stacked(self.keys, more.keys), stacked(self.values, more.values)
        self._buffers = (self.keys, self.values)


class RowCache:
    """Caches each row's whole sequence, for models of any architecture; its arguments are those of ``GroupCache``."""

    def __init__(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        _select(cache, torch.arange(len(mask), device=mask.device).repeat_interleave(group_size))
        self.cache = with_room(cache)
        self.mask = mask.repeat_interleave(group_size, dim=0)

    @property
    def admits(self) -> bool:
        """Say whether rows of unequal length may stand side by side; windows and states leave no room for padding."""
        return all(type(layer) is RoomyLayer for layer in self.cache.layers)

    @contextmanager
    def reading(self, model: Any) -> Iterator[dict[str, Any]]:
        """Yield the arguments of a forward pass over one token of each row, which belongs to the row afterwards."""
        del model
        self.mask = F.pad(self.mask, (0, 1), value=True)
        yield {"past_key_values": self.cache, "attention_mask": self.mask.long()}

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop all other rows."""
        _select(self.cache, rows)
        self.mask = self.mask[rows]

    def add(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        """Add the rows of more prompts after those that are there; all end in the same column."""
        cache.batch_repeat_interleave(group_size)
        for layer, more in zip(self.cache.layers, cache.layers, strict=True):
            layer.add(more)
        length = max(mask.shape[1], self.mask.shape[1])
        both = (self.mask, mask.repeat_interleave(group_size, dim=0))
        self.mask = torch.cat([F.pad(part, (length - part.shape[1], 0)) for part in both])


def with_room(cache: Cache) -> Cache:
    """Give a cache room to grow where its layers are plain ones; sliding windows keep their own."""
    if has_plain_layers(cache):
        exchange_layers(cache, RoomyLayer)
    return cache


def _select(cache: Cache, rows: Int[Tensor, " rows"]) -> None:
    """Drop all rows of a cache but these; one may come several times."""
    if has_states(cache):
        cache.reorder_cache(rows)
    else:
        cache.batch_select_indices(rows)


def stacked(first: Tensor, second: Tensor) -> Tensor:
    """Put keys or values of unequal length one under the other, padded on the left."""
    length = max(first.shape[-2], second.shape[-2])
    return torch.cat([F.pad(states, (0, 0, length - states.shape[-2], 0)) for states in (first, second)])


def _widened(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    wider = torch.empty(rows, heads, length + room, width, dtype=states.dtype, device=states.device)
    wider[:, :, :length] = states
    return wider
