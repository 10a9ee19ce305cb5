"""A Hugging Face causal LM says what comes next, one token at a time, from a cache of keys and values."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lit_align.compat import has_plain_layers
from lit_align.models.generation.group_cache import GroupCache
from lit_align.models.generation.read_prompts import read_prompts
from lit_align.models.generation.row_cache import RowCache
from lit_align.models.generation.whole_sequences import WholeSequences
from lit_align.sampling.generate import NextToken

SamplingWay = Literal["grouped", "rows", "prompts", "whole"]
"""A model is sampled in one of these ways. ``grouped``: the responses to a prompt share its keys and values; ``rows``:
each has its own cache, and many prompts are padded on the left; ``prompts``: likewise, one prompt at a time without
padding; ``whole``: one prompt at a time, and without a cache."""


def next_token_of(
    model: nn.Module, way: SamplingWay, around: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> NextToken:
    """Return the source of next-token logits for a way of sampling.

    Args:
        model: A Hugging Face causal LM in eval mode.
        way: How the model is sampled; two of the ways take one prompt at a time.
        around: Context of every forward pass, such as one without adapters.
    """
    if way == "whole":
        return WholeSequences(model, around)
    return CausalLMNextToken(model, around, shares=way == "grouped")


class CausalLMNextToken:
    """Gives next-token logits of a causal LM from its cache; a prompt is read once for its whole group.

    With ``shares``, the rows of a prompt share its keys and values where the cache holds nothing else.
    """

    def __init__(
        self,
        model: nn.Module,
        around: Callable[[], AbstractContextManager[Any]] = nullcontext,
        *,
        shares: bool = True,
    ) -> None:
        self.model = model
        self.around = around
        self.shares = shares
        self.cache: GroupCache | RowCache | None = None

    @property
    def admits(self) -> bool:
        """Say whether more prompts may be read while rows are under way."""
        return self.cache is None or self.cache.admits

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read left-padded prompts; there are ``group_size`` rows more for each, after those that are there."""
        with self.around():
            logits, cache, columns = read_prompts(self.model, ids, mask)
        position = mask.sum(1).repeat_interleave(group_size)
        if self.cache is None:
            kind = GroupCache if self.shares and has_plain_layers(cache) else RowCache
            self.cache, self.position = kind(cache, columns, group_size), position
        else:
            self.cache.add(cache, columns, group_size)
            self.position = torch.cat([self.position, position])
        return logits

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every row and return what comes next."""
        assert self.cache is not None
        with self.around(), self.cache.reading(self.model) as arguments:
            output = self.model(
                input_ids=tokens[:, None], position_ids=self.position[:, None], use_cache=True, **arguments
            )
        self.position = self.position + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop every other row from the cache; where none is kept, the next prompts begin another cache."""
        assert self.cache is not None
        if len(rows) == 0:
            self.cache = None
            return
        self.cache.keep(rows)
        self.position = self.position[rows]
