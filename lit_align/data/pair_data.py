"""An offline run on labelled pairs is an on-policy run whose responses are there already."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from typing_extensions import override

from lit_align.data.base import Given, IterationData
from lit_align.data.deal import Deck, ShuffledDeck, StreamedDeck
from lit_align.data.records import as_asked, settled
from lit_align.data.sources import Columns, Rows, checked, kept, read, spelled
from lit_align.data.templates import content_id, shown
from lit_align.types import Prompts, Record, Responses, Rollouts, message_text

PAIR = ("chosen", "rejected", "preference")
ASKS = ("prompt", "messages", "chosen")  # any of these columns says what is asked


class PairData(IterationData):
    """Streams labelled pairs to a method of pairs, such as DPO: groups of two, without sampler or judge.

    A row has a ``chosen`` and a ``rejected`` response, each a text or a conversation that ends with it, and a
    ``prompt`` (text or messages) or ``messages``, unless the conversations begin with what is asked. A column
    ``preference`` is P(chosen beats rejected). In each iteration the anchor moves, and so many pairs are scored and
    trained on. One-shot training against the initial policy is ``--model.anchor Initial``.

    Args:
        train: Pairs to train on; a path, a dataset id, ``function:DOTTED.PATH`` of a function that returns rows, or a
            full `Source`; in Python the rows themselves, as a list or a dataset of `datasets`.
        columns: Our column name -> the data's, such as ``{chosen: better, rejected: worse}``; those of prompts hold for
            all sets.
        prompts_per_iteration: Pairs in one iteration, over all devices; None takes all, in whole optimiser steps.
        max_response_tokens: Longest response, end-of-sequence included, >= 1; a longer one is cut and has no end.
        eps: Share of labels taken to be wrong where no ``preference`` says more, in [0, ½): P(chosen beats rejected) is
            1 - eps.
        streaming: Read the pairs row by row, for data larger than memory; needs ``prompts_per_iteration``.
        shuffle_buffer: Rows that a stream is shuffled within.
    """

    def __init__(
        self,
        train: Rows | None = None,
        heldout: Rows | None = None,
        test: Rows | None = None,
        columns: Columns | None = None,
        prompts_per_iteration: int | None = None,
        batch_size: int = 4,
        passes: int = 1,
        max_response_tokens: int = 512,
        eps: float = 0.0,
        heldout_limit: int | None = None,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        if max_response_tokens < 1:
            raise ValueError(f"data.max_response_tokens must be >= 1, got {max_response_tokens}")
        if not 0 <= eps < 0.5:
            raise ValueError(f"data.eps must lie in [0, 0.5), got {eps}")
        if streaming and prompts_per_iteration is None:
            raise ValueError("data.streaming needs data.prompts_per_iteration: a stream does not know its length")
        super().__init__(
            heldout,
            test,
            columns={ours: theirs for ours, theirs in (columns or {}).items() if ours not in PAIR},
            prompts_per_iteration=batch_size if prompts_per_iteration is None else prompts_per_iteration,
            batch_size=batch_size,
            passes=passes,
            heldout_limit=heldout_limit,
        )
        self.sources["train"] = kept(train)
        self.pair_columns = columns
        self.whole = prompts_per_iteration is None
        self.max_response_tokens = max_response_tokens
        self.eps = eps
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self.soft = eps > 0
        self.deck: Deck | None = None

    @property
    @override
    def gives(self) -> tuple[Given, ...]:
        return (Given("", ("data", "data"), soft=self.soft),)

    @override
    def check_divisible(self) -> None:
        if not self.whole:  # an iteration of all pairs is made to fit when they are counted
            super().check_divisible()

    @override
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        assert self.deck is not None
        assert self.encode is not None
        return self.deck.prompts(self.encode, iteration, self.prompts_per_iteration, rank, world_size)

    @override
    def given(self, prompts: Prompts, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts:
        del iteration, rank, world_size
        return self.pairs(prompts)

    def pairs(self, prompts: Prompts) -> Rollouts:
        """Return groups of the chosen and the rejected response to these prompts, compared as the labels say."""
        assert self.reader is not None
        texts = [[record["chosen"], record["rejected"]] for record in prompts.records]
        responses = self.reader.encode_responses(prompts, texts, self.max_response_tokens)
        check_differ(responses, self.max_response_tokens)
        preference = torch.tensor([float(record.get("preference", 1 - self.eps)) for record in prompts.records])
        wins = torch.full((len(prompts), 2, 2), 0.5)
        wins[:, 0, 1], wins[:, 1, 0] = preference, 1 - preference
        return Rollouts(responses, wins, torch.ones_like(wins, dtype=torch.bool))

    @override
    def read_train(self) -> None:
        source, heldout = self.source_to_train_on(), self.heldout_questions
        rows = self._open(source)
        if self.streaming:
            self.deck = StreamedDeck(
                rows, _checked, pair_id, source=spelled(source), shuffle_buffer=self.shuffle_buffer, heldout=heldout
            )
        else:
            self.deck = ShuffledDeck(rows, _checked, pair_id, heldout=heldout, least=self.prompts_per_iteration)
        self.asked = self.deck.asked

    @property
    @override
    def shuffled_within(self) -> int | None:
        return self.shuffle_buffer if self.streaming else None

    @override
    def questions(self, source: Rows, origin: str) -> Iterable[Record]:
        """Yield held-out prompts; a row in the layout of pairs asks what its conversations begin with."""
        rows = read(source, self.columns, asks=ASKS)
        for number, row in enumerate(rows):
            record = settled(row, origin, f"row {number}")
            chosen = record.get("chosen")
            before = chosen[:-1] if isinstance(chosen, list) else []
            yield _asking(record, before, f"{origin}: the prompt of row {number}")

    @override
    def check_read(self) -> None:
        if not isinstance(self.deck, ShuffledDeck):
            return
        assert self.encode is not None
        assert self.reader is not None
        for records in self.deck.batches():
            prompts = self.encode(records)
            tokens = prompts.mask.sum(1) + self.pairs(prompts).responses.lengths.amax(1)
            longest = int(tokens.argmax())
            if int(tokens[longest]) > self.reader.context_length:
                raise ValueError(
                    f"a prompt and its response have {int(tokens[longest])} tokens, more than the model's context of "
                    f"{self.reader.context_length}: remove the row or lower data.max_response_tokens "
                    f"({prompts.texts[longest][:60]!r}...)"
                )

    def _open(self, source: Rows) -> Any:
        rows = read(source, self.pair_columns, self.streaming, asks=ASKS)
        names = rows.column_names or list(next(iter(rows), {}))
        for name in ("chosen", "rejected"):
            if name not in names:
                raise ValueError(
                    f"data.train has no `{name}` column, only {sorted(names)}: name it with data.columns, such as "
                    f"{{{name}: {'better' if name == 'chosen' else 'worse'}}}"
                )
        self.soft = self.soft or "preference" in names
        if self.whole:
            self._fit_to(len(rows))
        return rows

    def _fit_to(self, pairs: int) -> None:
        step = self._prompts_per_step
        if pairs < step:
            raise ValueError(f"data.train has {pairs} pairs, fewer than an optimiser step takes ({step})")
        self.prompts_per_iteration = pairs // step * step


def as_pair(row: Record, name: str) -> Record:
    """Return a row as a record of texts: ``prompt`` or ``messages``, ``chosen``, ``rejected``, perhaps ``preference``.

    Raises:
        ValueError: It has no pair of different responses to one prompt, or a preference outside [0, 1].
    """
    record = settled(row, "data.train", name)
    before = {column: _take_response(record, column, name) for column in ("chosen", "rejected")}
    if before["chosen"] != before["rejected"]:
        raise ValueError(f"data.train: chosen and rejected of {name} answer different conversations")
    if record["chosen"] == record["rejected"]:
        raise ValueError(f"data.train: chosen and rejected of {name} are the same; remove the row")
    record = _asking(record, before["chosen"], f"data.train: the prompt of {name}")
    if not {"prompt", "messages"} & record.keys():
        raise ValueError(f"data.train: {name} has no prompt; remove the row")
    preference = record.get("preference", 1.0)
    if not (isinstance(preference, int | float) and 0 <= preference <= 1):
        raise ValueError(f"data.train: the preference of {name} is {preference!r}, not a probability in [0, 1]")
    return record


def check_differ(responses: Responses, max_tokens: int) -> None:
    """Refuse pairs whose two responses are the same to the policy.

    Args:
        responses: Pairs of written responses as tokens.
        max_tokens: The longest response; one that would be the same after the cut has been left longer.

    Raises:
        ValueError: There is such a pair; the message shows what it answers.
    """
    first, second = responses.ids.unbind(1)
    same = ((first == second) & (responses.mask[:, 0] == responses.mask[:, 1])).all(-1)
    for record, alike, length in zip(
        responses.prompts.records, same.tolist(), responses.lengths.amax(1).tolist(), strict=True
    ):
        if alike:
            raise ValueError(f"data.train: chosen and rejected are the same tokens; remove {shown(record)}")
        if length > max_tokens:
            raise ValueError(
                f"data.train: chosen and rejected have the same first {max_tokens} tokens: raise "
                f"data.max_response_tokens, or remove {shown(record)}"
            )


def pair_id(record: Record) -> int:
    """Return a 63-bit hash of what is asked and of both answers, stable across files, orders and machines."""
    content = json.dumps([content_id(record), record["chosen"], record["rejected"]])
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1


def _take_response(record: Record, column: str, name: str) -> list[Record]:
    """Put the response's text in the place of the conversation that ends with it, and return what came before."""
    value = record.get(column)
    before: list[Record] = []
    if isinstance(value, list) and value:
        if value[-1].get("role") != "assistant":
            raise ValueError(f"data.train: {column} of {name} must end with an assistant's message")
        before, value = value[:-1], message_text(value[-1])
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"data.train: {column} of {name} is empty; remove the row")
    record[column] = value
    return before


def _asking(record: Record, before: list[Record], what: str) -> Record:
    """Let a row ask what its conversations begin with; its prompt, if it has one, has to say the same."""
    if not before:
        return record
    if "prompt" in record:
        agrees = record["prompt"] in [message_text(message) for message in before if message.get("role") == "user"]
    else:
        agrees = record.get("messages", before)[: len(before)] == before
    if not agrees:
        raise ValueError(
            f"{what} is not what its conversations begin with: leave one of them out, such as data.columns "
            "{prompt: null}"
        )
    kept = {name: value for name, value in record.items() if name not in ("prompt", "messages")}
    return kept | as_asked(before)


def _checked(rows: Iterable[Record]) -> Iterator[Record]:
    return checked((as_pair(row, f"row {number}") for number, row in enumerate(rows)), "data.train")
