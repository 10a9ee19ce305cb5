"""On-policy runs deal a pool of prompts out to one iteration after another."""

from collections.abc import Iterable, Iterator

from typing_extensions import override

from lit_align.data.base import IterationData
from lit_align.data.deal import Deck, ShuffledDeck, StreamedDeck
from lit_align.data.sources import Columns, Rows, checked, kept, read, spelled
from lit_align.types import Prompts, Record


class PromptPool(IterationData):
    """Deals prompts to the sampler.

    Which prompts iteration t answers is a function of (seed, t) alone: the pool is shuffled anew on each pass over it
    and dealt out ``prompts_per_iteration`` at a time, so a resumed run skips and repeats nothing.

    Args:
        train: Prompts to train on; a path, a dataset id, ``pool:NAME``, ``function:DOTTED.PATH`` of a function that
            returns rows, or a full `Source`; in Python the rows themselves, as a list or a dataset of `datasets`.
        streaming: Read the training pool row by row, for pools larger than memory.
        shuffle_buffer: Rows that a streamed pool is shuffled within.
    """

    def __init__(
        self,
        train: Rows | None = None,
        heldout: Rows | None = None,
        test: Rows | None = None,
        columns: Columns | None = None,
        prompts_per_iteration: int = 32,
        batch_size: int = 4,
        passes: int = 1,
        heldout_limit: int | None = None,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        super().__init__(
            heldout,
            test,
            columns=columns,
            prompts_per_iteration=prompts_per_iteration,
            batch_size=batch_size,
            passes=passes,
            heldout_limit=heldout_limit,
        )
        self.sources["train"] = kept(train)
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self.deck: Deck | None = None

    @override
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        assert self.deck is not None
        assert self.encode is not None
        return self.deck.prompts(self.encode, iteration, self.prompts_per_iteration, rank, world_size)

    @override
    def read_train(self) -> None:
        source, heldout = self.source_to_train_on(), self.heldout_questions
        rows = read(source, self.columns, self.streaming)
        if self.streaming:
            self.deck = StreamedDeck(
                rows, _checked, source=spelled(source), shuffle_buffer=self.shuffle_buffer, heldout=heldout
            )
        else:
            self.deck = ShuffledDeck(rows, _checked, heldout=heldout, least=self.prompts_per_iteration)
        self.asked = self.deck.asked

    @override
    def check_read(self) -> None:
        assert self.encode is not None
        if isinstance(self.deck, ShuffledDeck):
            for records in self.deck.batches():
                self.encode(records)

    @property
    @override
    def shuffled_within(self) -> int | None:
        return self.shuffle_buffer if self.streaming else None


def _checked(rows: Iterable[Record]) -> Iterator[Record]:
    return checked(rows, "data.train")
