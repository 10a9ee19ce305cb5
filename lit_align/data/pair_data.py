"""The data module of labelled pairs: an offline run is an on-policy one whose responses are there already."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch

from lit_align.data.prompt_pool import PromptPool
from lit_align.data.sources import Source, checked, read
from lit_align.data.templates import content_id
from lit_align.types import Prompts, Record, Rollouts

PAIR = ("chosen", "rejected", "preference")


class PairData(PromptPool):
    """Streams labelled pairs to a method of pairs, such as DPO: groups of two, without sampler or judge.

    A row has a ``chosen`` and a ``rejected`` response, each a text or a conversation that ends with it, and a
    ``prompt`` (text or messages) or ``messages``, unless the conversations begin with what is asked. A column
    ``preference`` is P(chosen beats rejected). An iteration is so many pairs: the anchor moves, they are scored, and
    they are gone through. One-shot training against the initial policy is ``--model.anchor Initial``.

    Args:
        train: Pairs to train on; a path, a dataset id, or a full `Source`.
        heldout: Prompts to evaluate on, disjoint from those of ``train``; sampled, and compared where the module has a
            judge.
        test: Prompts of ``python -m lit_align test`` and ``predict``; the held-out ones where none are given.
        columns: Our column name -> the data's, such as ``{chosen: better, rejected: worse}``; those of prompts hold for
            all sets.
        prompts_per_iteration: Pairs in one iteration, over all devices; none is all of them, in whole optimiser steps.
        batch_size: Pairs in one forward and backward pass on one device.
        passes: Times each iteration's pairs are gone through.
        max_response_tokens: Longest response, end-of-sequence included, >= 1; a longer one is cut and has no end.
        eps: Share of labels taken to be wrong where no ``preference`` says more, in [0, ½): P(chosen beats rejected) is
            1 - eps.
        heldout_limit: Evaluate on the first so many held-out prompts only.
        streaming: Read the pairs row by row, for data larger than memory; needs ``prompts_per_iteration``.
        shuffle_buffer: Rows that a stream is shuffled within.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        train: str | Source | None = None,
        heldout: str | Source | None = None,
        test: str | Source | None = None,
        columns: dict[str, str] | None = None,
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
            train,
            heldout,
            test,
            columns={ours: theirs for ours, theirs in (columns or {}).items() if ours not in PAIR},
            prompts_per_iteration=batch_size if prompts_per_iteration is None else prompts_per_iteration,
            batch_size=batch_size,
            passes=passes,
            heldout_limit=heldout_limit,
            streaming=streaming,
            shuffle_buffer=shuffle_buffer,
        )
        self.pair_columns = columns
        self.whole = prompts_per_iteration is None
        self.max_response_tokens = max_response_tokens
        self.eps = eps
        self._soft = eps > 0
        self._policy: Any = None

    def setup(self, stage: str) -> None:
        """Read and check everything that can be checked before any weights load."""
        trainer: Any = self.trainer
        self._policy = trainer.lightning_module.policy
        super().setup(stage)
        if stage == "fit":
            trainer.lightning_module.check_pairs(self._soft)

    def check_module(self, module: Any) -> None:
        """Nothing yet: what the labels are is known when they are read."""

    def check_divisible(self) -> None:
        """An iteration of all pairs is made to fit when they are counted."""
        if not self.whole:
            super().check_divisible()

    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        """What the pairs of an iteration answer on this rank; a prompt of several pairs has several ids."""
        prompts = super().prompts(iteration, rank, world_size)
        moved = torch.tensor([pair_id(record) - content_id(record) for record in prompts.records])
        return replace(prompts, record_id=prompts.record_id + moved)

    def collect(self, module: Any, prompts: Prompts) -> Rollouts:
        """An iteration's rollouts: the pairs, scored by the module."""
        rollouts: Rollouts = module.collect(prompts, self.pairs(prompts))
        return rollouts

    def pairs(self, prompts: Prompts) -> Rollouts:
        """Groups of the chosen and the rejected response, compared as the labels say."""
        texts = [[record["chosen"], record["rejected"]] for record in prompts.records]
        responses = self._policy.encode_responses(prompts, texts, self.max_response_tokens)
        preference = torch.tensor([float(record.get("preference", 1 - self.eps)) for record in prompts.records])
        wins = torch.full((len(prompts), 2, 2), 0.5)
        wins[:, 0, 1], wins[:, 1, 0] = preference, 1 - preference
        return Rollouts(responses, wins, torch.ones_like(wins, dtype=torch.bool))

    def open(self, source: str | Source) -> Any:
        """The pairs to train on.

        Raises:
            ValueError: There is no column of chosen or rejected responses, or fewer pairs than an optimiser step takes.
        """
        pool = read(source, self.pair_columns, self.streaming, asks=("prompt", "messages", "chosen"))
        names = pool.column_names or list(next(iter(pool), {}))
        for name in ("chosen", "rejected"):
            if name not in names:
                raise ValueError(
                    f"data.train has no `{name}` column, only {sorted(names)}: name it with data.columns, such as "
                    f"{{{name}: {'better' if name == 'chosen' else 'worse'}}}"
                )
        self._soft = self._soft or "preference" in names
        if self.whole:
            self._fit_to(len(pool))
        return pool

    def checked(self, rows: Iterable[Record]) -> Iterator[Record]:
        """Pairs to train on, as records; a row without what it must have is refused."""
        return checked((as_pair(row, f"row {number}") for number, row in enumerate(rows)), "data.train")

    def key(self, record: Record) -> int:
        """What no two pairs may share."""
        return pair_id(record)

    def check_lengths(self, records: list[Record]) -> None:
        """Refuse a pair that does not fit the model's context.

        Raises:
            ValueError: Prompt and response together are too long.
        """
        prompts = self._encode(records)
        tokens = prompts.mask.sum(1) + self.pairs(prompts).responses.lengths.amax(1)
        longest = int(tokens.argmax())
        if int(tokens[longest]) > self._policy.context_length:
            raise ValueError(
                f"a prompt and its response have {int(tokens[longest])} tokens, more than the model's context of "
                f"{self._policy.context_length}: remove the row or lower data.max_response_tokens "
                f"({prompts.texts[longest][:60]!r}...)"
            )

    def _fit_to(self, pairs: int) -> None:
        trainer: Any = self.trainer
        step = self.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        if pairs < step:
            raise ValueError(f"data.train has {pairs} pairs, fewer than an optimiser step takes ({step})")
        self.prompts_per_iteration = pairs // step * step


def as_pair(row: Record, name: str) -> Record:
    """A row as a record of texts: ``prompt`` or ``messages``, ``chosen``, ``rejected``, perhaps ``preference``.

    Args:
        row: As it was read.
        name: What messages call it.

    Raises:
        ValueError: It has no pair of different responses to one prompt, or a preference outside [0, 1].
    """
    record = {column: value for column, value in row.items() if value is not None}
    before = {column: _take_response(record, column, name) for column in ("chosen", "rejected")}
    if before["chosen"] != before["rejected"]:
        raise ValueError(f"data.train: chosen and rejected of {name} answer different conversations")
    if record["chosen"] == record["rejected"]:
        raise ValueError(f"data.train: chosen and rejected of {name} are the same; remove the row")
    asked = before["chosen"] or (record["prompt"] if isinstance(record.get("prompt"), list) else [])
    if asked:
        record.pop("prompt", None)
        record |= {"prompt": asked[0]["content"]} if _is_prompt(asked) else {"messages": asked}
    if not {"prompt", "messages"} & record.keys():
        raise ValueError(f"data.train: {name} has no prompt; remove the row")
    preference = record.get("preference", 1.0)
    if not (isinstance(preference, int | float) and 0 <= preference <= 1):
        raise ValueError(f"data.train: the preference of {name} is {preference!r}, not a probability in [0, 1]")
    return record


def pair_id(record: Record) -> int:
    """A 63-bit hash of what is asked and of both answers, stable across files, orders and machines."""
    content = json.dumps([content_id(record), record["chosen"], record["rejected"]])
    return int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big") >> 1


def _take_response(record: Record, column: str, name: str) -> list[Record]:
    """Put the response's text in the place of the conversation that ends with it; returns what came before."""
    value = record.get(column)
    before: list[Record] = []
    if isinstance(value, list) and value:
        if value[-1].get("role") != "assistant":
            raise ValueError(f"data.train: {column} of {name} must end with an assistant's message")
        before, value = value[:-1], value[-1].get("content")
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"data.train: {column} of {name} is empty; remove the row")
    record[column] = value
    return before


def _is_prompt(messages: list[Record]) -> bool:
    return len(messages) == 1 and messages[0].get("role") == "user"
