"""Each token is drawn after the whole of its sequence has been read anew: slow, and right for any causal model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lit_align.models.changing_frequencies import begin_afresh


class WholeSequences:
    """Gives next-token logits for one prompt at a time, without cache, mask, padding or position ids."""

    admits = False

    def __init__(self, model: nn.Module, around: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self.model = model
        self.around = around
        self.ids = torch.empty(0, 0, dtype=torch.long)

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read one prompt."""
        assert len(ids) == 1
        self.ids = ids[:, mask[0]].repeat_interleave(group_size, dim=0)
        return self._read(self.ids[:1])

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every row and return what comes next."""
        self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
        return self._read(self.ids)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drop every other row."""
        self.ids = self.ids[rows]

    def _read(self, ids: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows vocab"]:
        with self.around():
            begin_afresh(self.model)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits[:, -1]
