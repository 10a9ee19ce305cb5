"""Attention of rows that share prompts: one copy of a prompt's keys and values serves all its responses.

A step's queries are many short sequences over few prompts. Against a prompt, the queries of its whole group are one
matrix product; against its own tokens, each row has its own. Both kinds of scores pass through one softmax, so the
result is that of attention over the whole sequence.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from lit_align.models.cache import stacked
from lit_align.models.exchanged import exchangeable, exchanged
from lit_align.models.rows import Rows

_NAME = "lit_align_grouped"  # of the attention, in transformers' registry
_ROOM = 64  # tokens to make room for at once
_asked: ContextVar["GroupedLayer"] = ContextVar("asked")  # the layer whose keys were updated last


class GroupedLayer(DynamicLayer):
    """One layer's keys and values: those of the prompts once, ``[batch, heads, prompt, width]``, and each row's own.

    Args:
        prompts: A layer that has read the prompts, whose contents are taken over.
        rows: Who belongs to which; shared by all layers.
    """

    def __init__(self, prompts: DynamicLayer, rows: Rows) -> None:
        super().__init__()
        self.lazy_initialization(prompts.keys, prompts.values)
        self.rows = rows
        self.prompt_keys, self.prompt_values = prompts.keys, prompts.values
        self._buffers = tuple(_room(states, len(rows), _ROOM) for states in (prompts.keys, prompts.values))
        self.keys, self.values = (buffer[:, :, :0] for buffer in self._buffers)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append one token to every row; returns the rows' own keys and values."""
        end = self.rows.longest + 1
        if end > self._buffers[0].shape[-2]:
            self._buffers = tuple(F.pad(buffer, (0, 0, 0, _ROOM)) for buffer in self._buffers)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            self.rows.write(buffer, states[:, :, 0])
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        _asked.set(self)
        return self.keys, self.values

    def attend(self, query: Float[Tensor, "rows heads 1 width"], scaling: float) -> Float[Tensor, "rows 1 heads width"]:
        """What each row's last token reads from its prompt and its own tokens."""
        rows, heads = self.rows, self.prompt_keys.shape[1]
        asks = (query * scaling).reshape(len(query), heads, -1, query.shape[-1])  # the queries of one key head together
        of_prompt = rows.by_row(self._over_prompts(rows.by_prompt(asks), self.prompt_keys.mT, rows.bias))
        of_own = asks @ self.keys.mT
        if rows.hidden is not None:
            of_own = of_own.masked_fill(rows.hidden, -torch.inf)
        precise = torch.promote_types(query.dtype, torch.float32)
        weights = torch.cat([of_prompt, of_own], dim=-1).softmax(-1, dtype=precise).to(query.dtype)
        to_prompt, to_own = weights.split([of_prompt.shape[-1], of_own.shape[-1]], dim=-1)
        read: Tensor = (
            rows.by_row(self._over_prompts(rows.by_prompt(to_prompt), self.prompt_values)) + to_own @ self.values
        )
        return read.reshape(len(query), 1, -1, read.shape[-1])

    def keep(self, rows: Int[Tensor, " kept"], prompts: Int[Tensor, " prompts"]) -> None:
        """Go on with these rows, and the prompts they answer."""
        self._buffers = tuple(buffer[rows] for buffer in self._buffers)
        if len(prompts) < len(self.prompt_keys):
            self.prompt_keys, self.prompt_values = self.prompt_keys[prompts], self.prompt_values[prompts]

    def add(self, prompts: DynamicLayer, rows: int) -> None:
        """Rows of more prompts, after those that are there."""
        self.prompt_keys = stacked(self.prompt_keys, prompts.keys)
        self.prompt_values = stacked(self.prompt_values, prompts.values)
        self._buffers = tuple(torch.cat([b, b.new_zeros(rows, *b.shape[1:])]) for b in self._buffers)

    @staticmethod
    def _over_prompts(
        groups: Float[Tensor, "batch width heads repeats _"],
        matrices: Float[Tensor, "batch heads _ _"],
        bias: Float[Tensor, "batch 1 1 _"] | None = None,
    ) -> Float[Tensor, "batch width heads repeats _"]:
        """Each group's rows times its prompt's matrix, head by head."""
        batch, width, heads, repeats, _ = groups.shape
        product = groups.transpose(1, 2).reshape(batch, heads, width * repeats, -1) @ matrices
        product = product if bias is None else product + bias
        return product.view(batch, heads, width, repeats, -1).transpose(1, 2)


class GroupedCache:
    """The cache of a batch of groups, for models whose attention can be exchanged.

    Args:
        cache: Has read the prompts.
        mask: True on the prompts' tokens.
        group_size: Rows of each prompt.
    """

    admits = True

    def __init__(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        self.rows = Rows(mask, group_size)
        self.cache = cache
        cache.layers = [GroupedLayer(layer, self.rows) for layer in cache.layers]

    @contextmanager
    def reading(self, model: Any) -> Iterator[dict[str, Any]]:
        """Arguments of a forward pass over one token of each row; the rows are longer by it afterwards."""
        with exchanged(model.config, _NAME, _attention):
            yield {"past_key_values": self.cache}
        self.rows.advance()

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows."""
        prompts = self.rows.keep(rows.cpu()).to(rows.device)
        for layer in self.cache.layers:
            layer.keep(rows, prompts)

    def add(self, cache: Cache, mask: Bool[Tensor, "batch prompt"], group_size: int) -> None:
        """Rows of more prompts, after those that are there."""
        self.rows.add(mask, group_size)
        for layer, more in zip(self.cache.layers, cache.layers, strict=True):
            layer.add(more, len(mask) * group_size)


def groupable(model: Any, cache: Cache) -> bool:
    """Whether the model's attention can be exchanged for that of groups."""
    return exchangeable(model.config) and all(type(layer) is DynamicLayer for layer in cache.layers)


def _room(prompts: Tensor, rows: int, tokens: int) -> Tensor:
    # Zeros: what a row does not have is weighed with 0, and 0 times what lies in fresh memory may be nan.
    return prompts.new_zeros(rows, prompts.shape[1], tokens, prompts.shape[-1])


def _attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """An attention of transformers: that of the layer whose keys these are."""
    del module, value, mask, kwargs
    layer = _asked.get()
    assert key is layer.keys
    return layer.attend(query, query.shape[-1] ** -0.5 if scaling is None else scaling), None
