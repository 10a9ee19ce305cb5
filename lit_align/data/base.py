"""An iteration asks its data for prompts to answer, for responses that are there already, and for held-out prompts.

A data module knows rows and files, and no algorithm: the iteration tells it how rows become prompts and who makes
minibatches (:meth:`IterationData.connect`).
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
from typing_extensions import override

from lit_align.data.rollout_store import Origin
from lit_align.data.sources import Columns, Rows, check_distinct, checked, kept, read
from lit_align.data.templates import content_id, question_id
from lit_align.sampling.uniforms import run_seed
from lit_align.types import Prompts, Record, Responses, Rollouts
from lit_align.utils.annotations import inherit_annotations
from lit_align.utils.arguments import note_arguments
from lit_align.utils.digests import text_digest

Encode = Callable[[list[Record]], Prompts]
"""This makes prompts that fit the model of rows; it needs no weights."""


@runtime_checkable
class Reader(Protocol):
    """Reads text as a policy does; it needs no weights."""

    context_length: int

    def encode(self, records: list[Record]) -> Prompts:
        """Return rows as prompts."""

    def encode_responses(self, prompts: Prompts, texts: list[list[str]], max_tokens: int) -> Responses:
        """Return written responses as tokens."""


@dataclass(frozen=True)
class Given:
    """Says what is known of responses that are there already, before any of them is read.

    Attributes:
        where: How messages name them, such as by a file; may be empty.
        source: Which policy sampled each response of a group; ``data`` where no policy of ours did.
        rewarded: Whether they have rewards.
        soft: Whether a label may be a probability other than 0 and 1.
    """

    where: str
    source: tuple[str, ...]
    rewarded: bool = False
    soft: bool = False


class IterationData(L.LightningDataModule, ABC):
    """Gives an iteration its prompts, and responses to them where they are there already; all data modules extend it.

    Args:
        heldout: Prompts to evaluate on, disjoint from those trained on: the policy answers them, and the judge, if
            there is one, compares the answers. None means no evaluation.
        test: Prompts of ``python -m lit_align test`` and ``predict``; the held-out ones where none are given.
        columns: Our column name -> the data's, such as ``{prompt: question}``. Columns ``prompt`` (text) or
            ``messages`` (chat) are what is asked; all others stay in the record that judges see.
        prompts_per_iteration: Prompts of one iteration, over all devices, >= 1.
        batch_size: Prompts (groups) in one forward and backward pass on one device, >= 1.
        passes: Passes over each iteration's rollouts, >= 1.
        heldout_limit: Number of held-out prompts to evaluate on, the first ones; None takes all.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a config set what a subclass inherits, and note the arguments of each object."""
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
        self.asked: list[int] | str = []  # these are ids in the rows' order, or a stream's place
        self.rows: dict[str, list[Record]] = {}
        self.prompts_of: dict[str, Prompts] = {}
        self.encode: Encode | None = None
        self.reader: Reader | None = None
        self.minibatches: Callable[[], DataLoader[Any]] | None = None
        self._fits = False  # the rows to train on have been checked by the reader

    # An iteration asks for what follows.

    @abstractmethod
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        """Return this rank's prompts of an iteration; :meth:`connect` has to come first."""

    def given(self, prompts: Prompts, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts | None:
        """Return the responses to these prompts that are there already, compared; None where they are to be sampled."""
        del prompts, iteration, rank, world_size
        return None

    def given_lengths(self, prompts: Prompts) -> Int[Tensor, "batch group"] | None:
        """Return the tokens of each given response of the first iteration; None where responses are to be sampled."""
        given = self.given(prompts, 0)
        return None if given is None else given.responses.lengths

    @property
    def gives(self) -> tuple[Given, ...]:
        """Return what the given responses are, for an algorithm to refuse; nothing where they are to be sampled."""
        return ()

    @property
    def given_by(self) -> Origin:
        """Return who has compared the given responses, as far as that is known."""
        return {}

    @property
    def day(self) -> date | None:
        """Return the day on which the given responses were first drawn, as far as that is known."""
        return None

    @property
    def steps_per_phase(self) -> int:
        """Return the optimiser steps of one fit on an iteration's rollouts."""
        return self.prompts_per_iteration * self.passes // self._prompts_per_step

    @property
    def identity(self) -> dict[str, str]:
        """Return short digests of the rows that were read and of their order: a run goes on with the same alone."""
        sets = {"train": self.asked, "heldout": self.heldout_ids}
        within = False if self.shuffled_within is None else self.shuffled_within
        dealt = f"{run_seed()} {self.prompts_per_iteration} {within}"
        return {name: text_digest(repr(ids)) for name, ids in sets.items()} | {"deal": dealt}

    @property
    def shuffled_within(self) -> int | None:
        """Return how many rows a stream is shuffled within; None where all rows are there."""
        return None

    def connect(self, encode: Encode, reader: Reader, minibatches: Callable[[], DataLoader[Any]] | None = None) -> None:
        """Take from an iteration what it alone knows, and refuse held-out rows that do not fit its model.

        Args:
            encode: Makes prompts of rows.
            reader: Reads written responses.
            minibatches: Begins an iteration, collects its rollouts and returns the loader of their minibatches, which
                Lightning then gets as training data.

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

    # Lightning asks for what follows.

    @override
    def setup(self, stage: str) -> None:
        """Read and check the rows, before any weights load."""
        if stage == "fit":
            self.check_divisible()
            self.read("train", "heldout")
        else:
            self.read("heldout" if stage == "validate" else "test")
        self.check_shares()

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's minibatches of the iteration that begins, which the iteration itself makes.

        Raises:
            RuntimeError: No iteration has connected itself.
        """
        if self.minibatches is None:
            raise RuntimeError("these data belong to no iteration yet: train with an AlignmentModule")
        return self.minibatches()

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._one_batch("heldout")

    @override
    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._one_batch("test")

    @override
    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._one_batch("test")

    # The rows are read and checked by what follows.

    def read(self, *names: str) -> None:
        """Read the named sets of rows: ``train``, ``heldout``, ``test``.

        Raises:
            ValueError: A set is not given, is empty or asks the same twice, or held-out prompts are trained on.
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
        """Return the rows of held-out or test prompts, each with something to ask; error messages name ``origin``."""
        del origin
        rows: Iterable[Record] = read(source, self.columns)
        return rows

    @abstractmethod
    def read_train(self) -> None:
        """Read the rows to train on, say in ``asked`` what they are, and refuse what an iteration cannot use."""

    def source_to_train_on(self) -> Rows:
        """Return the place that the rows to train on are read from.

        Raises:
            ValueError: ``data.train`` is not given.
        """
        source = self.sources.get("train")
        if source is None:
            raise ValueError("data.train is not given: name a file, a dataset id or pool:topics_train")
        return source

    @property
    def heldout_ids(self) -> list[int]:
        """Return the content ids of the held-out prompts, in their order."""
        return [content_id(record) for record in self.rows.get("heldout", [])]

    @property
    def heldout_questions(self) -> set[int]:
        """Return the question ids of the held-out prompts, which nothing that is trained on may have."""
        return {question_id(record) for record in self.rows.get("heldout", [])}

    def check_divisible(self) -> None:
        """Refuse an iteration that is no whole number of optimiser steps: the last one would be mis-scaled."""
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
        """Refuse fewer prompts than devices: the others would wait for the measures of one without a prompt."""
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
