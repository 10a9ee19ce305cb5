"""A key-value cache with room to grow: a token is written in place instead of copying all that came before it."""

from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

_ROOM = 64  # tokens to make room for at once


class RoomyLayer(DynamicLayer):
    """One layer's keys and values, ``[rows, heads, tokens, head_dim]``, views of larger buffers.

    Args:
        layer: A filled layer, whose contents are taken over.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys, layer.values
        self._buffers = (self.keys, self.values)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append tokens; returns all keys and values."""
        start, added = self.keys.shape[-2], key_states.shape[-2]
        if start + added > self._buffers[0].shape[-2]:
            self._buffers = (_widened(self.keys, added + _ROOM), _widened(self.values, added + _ROOM))
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : start + added] = states
        self.keys, self.values = (buffer[:, :, : start + added] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, room included."""
        length = self.keys.shape[-2]
        self._buffers = (self._buffers[0][indices], self._buffers[1][indices])
        self.keys, self.values = (buffer[:, :, :length] for buffer in self._buffers)


def with_room(cache: Cache) -> Cache:
    """The same cache with room to grow, where its layers are plain ones (sliding windows keep their own)."""
    if all(type(layer) is DynamicLayer for layer in cache.layers):
        cache.layers = [RoomyLayer(layer) for layer in cache.layers]
    return cache


def _widened(states: Tensor, room: int) -> Tensor:
    rows, heads, length, width = states.shape
    wider = torch.empty(rows, heads, length + room, width, dtype=states.dtype, device=states.device)
    wider[:, :, :length] = states
    return wider
