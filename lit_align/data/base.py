"""What an iteration asks of its data: prompts to answer, responses that are there already, and held-out prompts.

A data module knows rows and files. It knows no algorithm: the iteration tells it how rows become prompts and who makes
minibatches (:meth:`IterationData.connect`), and asks it for everything else.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol, runtime_checkable

import lightning as L
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader

from lit_align.data.rollout_store import Origin
from lit_align.data.sources import Columns, Rows, check_distinct, checked, kept, read
from lit_align.data.templates import content_id, question_id
from lit_align.sampling.uniforms import run_seed
from lit_align.types import Prompts, Record, Responses, Rollouts
from lit_align.utils.annotations import inherit_annotations
from lit_align.utils.arguments import note_arguments
from lit_align.utils.digests import text_digest

Encode = Callable[[list[Record]], Prompts]
"""Rows as prompts that fit the model; needs no weights."""


@runtime_checkable
class Reader(Protocol):
    """The part of a policy that reads text; it needs no weights."""

    context_length: int

    def encode(self, records: list[Record]) -> Prompts:
        """Rows as prompts."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Written responses as tokens."""


@dataclass(frozen=True)
class Given:
    """What is known of responses that are there already, before any of them is read.

    Attributes:
        where: What messages call them, such as a file; may be empty.
        source: Who drew each slot of a group; ``data`` where no policy of ours did.
        rewarded: Whether they have rewards.
        soft: Whether a comparison may be a probability other than 0 and 1 by its label.
    """

    where: str
    source: tuple[str, ...]
    rewarded: bool = False
    soft: bool = False


class IterationData(L.LightningDataModule, ABC):
    """Base of the data modules. A subclass says which prompts an iteration answers, and whether responses are given.

    Args:
        heldout: Prompts to evaluate on; none means no evaluation.
        test: Prompts of ``python -m lit_align test`` and ``predict``; the held-out ones where none are given.
        columns: Our column name -> the data's, of the held-out and test prompts.
        prompts_per_iteration: Prompts of one iteration, over all devices, >= 1.
        batch_size: Prompts (groups) in one forward and backward pass on one device, >= 1.
        passes: Times each iteration's rollouts are gone through, >= 1.
        heldout_limit: Evaluate on the first so many held-out prompts only.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a config give data of one's own what the class they extend takes; what they are given is noted."""
        super().__init_subclass__(**kwargs)
        inherit_annotations(cls)
        note_arguments(cls)

    def __init__(
        self,
        heldout: Rows | None = None,
        test: Rows | None = None,
        *,
        columns: Columns | None = None,
        prompts_per_iteration: int,
        batch_size: int = 4,
        passes: int = 1,
        heldout_limit: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("prompts_per_iteration", prompts_per_iteration),
            ("batch_size", batch_size),
            ("passes", passes),
            ("heldout_limit", heldout_limit),
        ):
            if value is not None and value < 1:
                raise ValueError(f"data.{name} must be >= 1, got {value}")
        heldout = kept(heldout)
        self.sources: dict[str, Rows | None] = {"heldout": heldout, "test": heldout if test is None else kept(test)}
        self.columns = columns
        self.prompts_per_iteration = prompts_per_iteration
        self.batch_size = batch_size
        self.passes = passes
        self.heldout_limit = heldout_limit
        self.asked: list[int] | str = []  # ids of the rows to train on in their order, or what a stream is read from
        self.rows: dict[str, list[Record]] = {}
        self.prompts_of: dict[str, Prompts] = {}
        self.encode: Encode | None = None
        self.reader: Reader | None = None
        self.minibatches: Callable[[], DataLoader[Any]] | None = None
        self._fits = False  # the rows to train on have been checked by the reader

    # ------------------------------------------------------------------ what an iteration asks for

    @abstractmethod
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        """The prompts of an iteration on this rank, once an iteration has connected itself."""

    def given(self, prompts: Prompts, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts | None:
        """Responses to these prompts that are there already and compared; None where they are to be drawn."""
        del prompts, iteration, rank, world_size
        return None

    def given_lengths(self, prompts: Prompts) -> Int[Tensor, "batch group"] | None:
        """Tokens of the given responses of the first iteration; None where responses are to be drawn."""
        given = self.given(prompts, 0)
        return None if given is None else given.responses.lengths

    @property
    def gives(self) -> tuple[Given, ...]:
        """What the given responses are, for an algorithm to refuse; nothing where responses are to be drawn."""
        return ()

    @property
    def given_by(self) -> Origin:
        """Who has compared the given responses, as far as that is known."""
        return {}

    @property
    def day(self) -> date | None:
        """Return the day on which the given responses were first drawn, as far as that is known."""
        return None

    @property
    def steps_per_phase(self) -> int:
        """Optimiser steps of one fit on an iteration's rollouts."""
        return self.prompts_per_iteration * self.passes // self._prompts_per_step

    @property
    def identity(self) -> dict[str, str]:
        """What the run answers, as short digests, once its rows are read: a run goes on with the same alone."""
        sets = {"train": self.asked, "heldout": self.heldout_ids}
        within = False if self.shuffled_within is None else self.shuffled_within
        dealt = f"{run_seed()} {self.prompts_per_iteration} {within}"
        return {name: text_digest(repr(ids)) for name, ids in sets.items()} | {"deal": dealt}

    @property
    def shuffled_within(self) -> int | None:
        """Rows that a stream is shuffled within; None where all rows are there."""
        return None

    def connect(self, encode: Encode, reader: Reader, minibatches: Callable[[], DataLoader[Any]] | None = None) -> None:
        """Take from an iteration what it alone knows, and refuse held-out rows that do not fit its model.

        Args:
            encode: Makes prompts of rows.
            reader: Reads written responses.
            minibatches: Begins an iteration, collects its rollouts and gives their minibatches: what Lightning is
                answered when it asks for training data.

        Raises:
            ValueError: A row does not fit the model's context.
        """
        if encode != self.encode:
            self.encode, self.reader, self.prompts_of, self._fits = encode, reader, {}, False
        self.prompts_of |= {name: encode(rows) for name, rows in self.rows.items() if name not in self.prompts_of}
        self.minibatches = minibatches

    def check_fits(self) -> None:
        """Refuse rows to train on that the connected reader cannot take; each reader looks at them once."""
        if self.asked and not self._fits:
            self.check_read()
            self._fits = True

    def check_read(self) -> None:
        """Refuse rows to train on that the connected reader cannot take; by default there is nothing to check."""

    # ------------------------------------------------------------------ what Lightning asks for

    def setup(self, stage: str) -> None:
        """Read and check the rows, before any weights load."""
        if stage == "fit":
            self.check_divisible()
            self.read("train", "heldout")
        else:
            self.read("heldout" if stage == "validate" else "test")
        self.check_shares()

    def train_dataloader(self) -> DataLoader[Any]:
        """This rank's minibatches of the iteration that begins, made by the iteration itself.

        Raises:
            RuntimeError: No iteration has connected itself.
        """
        if self.minibatches is None:
            raise RuntimeError("these data belong to no iteration yet: train with an AlignmentModule")
        return self.minibatches()

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's held-out prompts, as one batch."""
        return self._one_batch("heldout")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's test prompts, as one batch."""
        return self._one_batch("test")

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's test prompts, as one batch."""
        return self._one_batch("test")

    # ------------------------------------------------------------------ reading and checking

    def read(self, *names: str) -> None:
        """Read the named sets of rows: ``train``, ``heldout``, ``test``.

        Raises:
            ValueError: A set is not given, empty, or asks the same twice; held-out prompts are trained on.
        """
        for name in names:
            if name != "train" and name not in self.rows:
                self.read_prompts(name)
        if "train" in names and not self.asked:
            self.read_train()

    def read_prompts(self, name: str) -> None:
        """Read the held-out or the test prompts, if there are any."""
        source = self.sources[name]
        if source is not None:
            rows = list(checked(self.questions(source, f"data.{name}"), f"data.{name}"))
            rows = rows[: self.heldout_limit] if name == "heldout" else rows
            check_distinct(rows, f"data.{name}")
            self.rows[name] = rows
        elif name != "heldout":
            raise ValueError(f"data.{name} is not given: name a file, a dataset id or pool:topics_train")

    def questions(self, source: Rows, origin: str) -> Iterable[Record]:
        """Return the rows of held-out or test prompts, each with a ``prompt`` or ``messages``.

        Args:
            source: Where they are read from.
            origin: What error messages call them.
        """
        del origin
        rows: Iterable[Record] = read(source, self.columns)
        return rows

    @abstractmethod
    def read_train(self) -> None:
        """Read the rows to train on, and say in ``asked`` what they are."""

    def source_to_train_on(self) -> Rows:
        """The place that the rows to train on are read from.

        Raises:
            ValueError: Nobody has said so.
        """
        source = self.sources.get("train")
        if source is None:
            raise ValueError("data.train is not given: name a file, a dataset id or pool:topics_train")
        return source

    @property
    def heldout_ids(self) -> list[int]:
        """Content ids of the held-out prompts, in their order."""
        return [content_id(record) for record in self.rows.get("heldout", [])]

    @property
    def heldout_questions(self) -> set[int]:
        """Question ids of the held-out prompts, which nothing that is trained on may have."""
        return {question_id(record) for record in self.rows.get("heldout", [])}

    def check_divisible(self) -> None:
        """An iteration must be a whole number of optimiser steps, or the last one would be mis-scaled."""
        trainer: Any = self.trainer
        step = self._prompts_per_step
        if self.prompts_per_iteration % step:
            fitting = max(step, round(self.prompts_per_iteration / step) * step)
            raise ValueError(
                f"data.prompts_per_iteration ({self.prompts_per_iteration}) must be a multiple of data.batch_size x "
                f"accumulate_grad_batches x devices = {self.batch_size} x {trainer.accumulate_grad_batches} x "
                f"{trainer.world_size} = {step}: try {fitting}"
            )

    def check_shares(self) -> None:
        """Every device must have a prompt to answer, or the others would wait for its measures."""
        trainer: Any = self.trainer
        for name, rows in self.rows.items():
            if len(rows) < trainer.world_size:
                raise ValueError(
                    f"data.{name} has {len(rows)} prompts for {trainer.world_size} devices, and each needs one: "
                    f"give more prompts or set trainer.devices to {len(rows)}"
                )

    @property
    def _prompts_per_step(self) -> int:
        trainer: Any = self.trainer
        return int(self.batch_size * trainer.accumulate_grad_batches * trainer.world_size)

    def _one_batch(self, name: str) -> DataLoader[Any] | list[Any]:
        prompts = self.prompts_of.get(name)
        if prompts is None:
            return []
        trainer: Any = self.trainer
        mine = prompts.select(range(trainer.global_rank, len(prompts), trainer.world_size))
        return DataLoader([mine], batch_size=None, shuffle=False)  # type: ignore[arg-type]
