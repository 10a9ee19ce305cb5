"""A network has to give a row in a batch the score that it gives to the row alone: this is checked, and never assumed.

How a network reads a padded batch depends on its architecture, its padding token, its positions and its code. The first
batch whose rows differ in length is scored a second time, one row at a time, as plain transformers would do it.
"""

import logging
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.utils.out_of_memory import Halving, is_out_of_memory

log = logging.getLogger(__name__)

_ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Rounding may change a score by so much, relative to the larger of its size and 1."""


class RowByRow:
    """Scores rows in batches while a batch changes nothing; where it does, the log says so and rows are scored alone.

    Args:
        judge: Name of the judge in the log.
        dtype: Dtype of the weights, which bounds rounding.
        halving: Cuts batches that do not fit into memory.
    """

    def __init__(self, judge: str, dtype: torch.dtype, halving: Halving) -> None:
        self.judge = judge
        self.bound = _ROUNDING[dtype]
        self.single = False  # a batch has been seen to change scores
        self._halving = halving
        self._proved = -1  # it is the longest of the unequal rows that kept their scores; 0 where all were equal

    def scores(
        self,
        lengths: Sequence[int],
        batches: Sequence[Sequence[int]],
        together: Callable[[Sequence[int]], Float[Tensor, " rows"]],
        alone: Callable[[int], float],
    ) -> Float[Tensor, " rows"]:
        """Return the score of each row.

        Args:
            lengths: Tokens of each row.
            batches: Row numbers; each row is in one batch.
            together: Scores some rows in one padded pass.
            alone: Scores a row in a plain pass of its own.
        """
        values = torch.zeros(len(lengths))
        left = list(batches)
        first = self._to_prove(lengths, left)
        if first is not None:
            left.remove(first)
            values[list(first)] = self._proof(first, together, alone)
        if self.single:
            left = [[row] for batch in left for row in batch]

        def score(rows: Sequence[int]) -> Tensor:
            return torch.tensor([alone(rows[0])]) if len(rows) == 1 else together(rows)

        for rows, found in self._halving.each(left, score):
            values[list(rows)] = found
        return values

    def _to_prove(self, lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> Sequence[int] | None:
        """Return the batch of the most unequal rows, where none like it has been proved."""

        def unequal(batch: Sequence[int]) -> int:
            return max(lengths[row] for row in batch) - min(lengths[row] for row in batch)

        several = [batch for batch in batches if len(batch) > 1]
        if self.single or not several:
            return None
        first = max(several, key=unequal)
        longest = max(lengths[row] for row in first) if unequal(first) else 0
        # Windows and frequencies may change with length, so what is more than twice as long is looked at again.
        if longest <= 2 * self._proved:
            return None
        self._proved = longest
        return first

    def _proof(
        self, batch: Sequence[int], together: Callable[[Sequence[int]], Tensor], alone: Callable[[int], float]
    ) -> Tensor:
        """Return the scores of the batch, or those of its rows alone where the two differ."""
        try:
            found = torch.cat([scores for _, scores in self._halving.each([batch], together)])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            found, problem = torch.full((len(batch),), torch.nan), f"a batch raises {type(error).__name__} ({error})"
        else:
            problem = f"a batch of {len(batch)} is not scored as its rows are alone"
        expected = torch.tensor([alone(row) for row in batch])
        gap = float(((found - expected).abs() / expected.abs().clamp(min=1)).max())
        if gap <= self.bound:
            return found
        self.single = True
        problem += "" if math.isnan(gap) else f": scores differ by up to {gap:.2g}"
        log.warning("judge %s: %s; rows are scored one at a time from here on", self.judge, problem)
        return expected
