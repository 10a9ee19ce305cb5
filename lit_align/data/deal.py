"""The rows of an iteration depend on the seed and the number of rows dealt before, and on nothing else.

So a run that goes on skips and repeats nothing. A pool is shuffled anew on each pass over it.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from typing_extensions import override

from lit_align.data.sources import check_distinct, check_not_heldout
from lit_align.data.templates import content_id
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.types import Prompts, Record

Check = Callable[[Iterable[Record]], Iterator[Record]]
"""This makes records of rows; it refuses a row without what it must have."""


class Deck(ABC):
    """Deals a pool of rows out.

    Args:
        rows: A dataset of `datasets`.
        check: Makes records of rows.
        key: Tells two records apart.

    Attributes:
        asked: What the run's identity says of the pool: the keys of its rows, or the place that a stream is read from.
    """

    asked: list[int] | str

    def __init__(self, rows: Any, check: Check, key: Callable[[Record], int] = content_id) -> None:
        self.rows = rows
        self.check = check
        self.key = key

    @abstractmethod
    def deal(self, start: int, count: int) -> list[tuple[Record, int]]:
        """Return ``count`` records from the ``start``-th ever dealt on, each with the number of its pass."""

    def prompts(
        self, encode: Callable[[list[Record]], Prompts], iteration: int, count: int, rank: int = 0, world_size: int = 1
    ) -> Prompts:
        """Return a rank's share of an iteration of ``count`` rows.

        A row of a second pass, and rows that ask the same with other keys, get ids of their own: other responses are
        sampled to the same prompt.
        """
        mine = self.deal(iteration * count, count)[rank::world_size]
        prompts = encode([record for record, _ in mine])
        own_keys = self.key is not content_id
        moved = [turn + (self.key(record) - content_id(record) if own_keys else 0) for record, turn in mine]
        return replace(prompts, record_id=prompts.record_id + torch.tensor(moved))


class ShuffledDeck(Deck):
    """Deals rows that are all there, no two of the same key.

    Args:
        heldout: Question ids of what may not be trained on.
        least: Smallest number of rows, which one iteration takes.

    Raises:
        ValueError: Two rows have one key, one is held out, or there are too few.
    """

    def __init__(
        self,
        rows: Any,
        check: Check,
        key: Callable[[Record], int] = content_id,
        *,
        heldout: Collection[int] = (),
        least: int = 1,
    ) -> None:
        super().__init__(rows, check, key)
        self.asked = check_distinct(check(rows), "data.train", key, heldout)
        if len(rows) < least:
            raise ValueError(f"data.train has {len(rows)} prompts, fewer than data.prompts_per_iteration ({least})")

    @override
    def deal(self, start: int, count: int) -> list[tuple[Record, int]]:
        places = [divmod(position, len(self.rows)) for position in range(start, start + count)]
        rows = self.check(self.rows[_permutation(len(self.rows), run_seed(), turn)[place]] for turn, place in places)
        return [(record, turn) for record, (turn, _) in zip(rows, places, strict=True)]

    def batches(self, size: int = 1000) -> Iterator[list[Record]]:
        """Yield all records in their own order, ``size`` at a time."""
        for start in range(0, len(self.rows), size):
            yield list(self.check(self.rows[row] for row in range(start, min(start + size, len(self.rows)))))


class StreamedDeck(Deck):
    """Deals rows that are read one by one, from pools larger than memory.

    Args:
        source: Name of the place that the rows are read from.
        shuffle_buffer: Rows that the stream is shuffled within.
        heldout: Question ids of what may not be trained on.
    """

    def __init__(
        self,
        rows: Any,
        check: Check,
        key: Callable[[Record], int] = content_id,
        *,
        source: str,
        shuffle_buffer: int,
        heldout: Collection[int] = (),
    ) -> None:
        super().__init__(rows, check, key)
        self.asked = source
        self.shuffle_buffer = shuffle_buffer
        self.heldout = heldout
        self._stream: Iterator[tuple[Record, int]] = iter(())
        self._position = -1

    @override
    def deal(self, start: int, count: int) -> list[tuple[Record, int]]:
        if start != self._position:  # rows that are dealt one after the other are read once
            self._stream = itertools.islice(self._endless(), start, None)
        self._position = start + count
        return list(itertools.islice(self._stream, count))

    def _endless(self) -> Iterator[tuple[Record, int]]:
        shuffled = self.rows.shuffle(seed=run_seed(), buffer_size=self.shuffle_buffer)
        for turn in itertools.count():
            shuffled.set_epoch(turn)
            empty = True
            for record in self.check(shuffled):
                check_not_heldout(record, "data.train too", self.heldout)
                empty = False
                yield record, turn
            if empty:
                raise ValueError("data.train has no rows")


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, turn: int) -> list[int]:
    generator = torch.Generator().manual_seed(mixed_seed(seed, turn))
    return torch.randperm(size, generator=generator).tolist()
