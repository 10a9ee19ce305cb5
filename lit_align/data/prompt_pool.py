"""The data module of on-policy runs: a pool of prompts, streamed to one iteration after another."""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from lit_align.data.sources import Source, checked, read
from lit_align.data.templates import content_id
from lit_align.iteration.minibatches import Buffer
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.types import Prompts, Record, Rollouts
from lit_align.utils.digests import text_digest

Encode = Callable[[list[Record]], Prompts]


class PromptPool(L.LightningDataModule):
    """Streams prompts to the sampler and rollouts to the optimiser.

    Which prompts iteration t answers is a function of (seed, t) alone: the pool is shuffled anew on each pass over it
    and dealt out ``prompts_per_iteration`` at a time, so a resumed run skips and repeats nothing.

    Args:
        train: Prompts to train on; a path, a dataset id, ``pool:NAME``, or a full `Source`.
        heldout: Prompts to evaluate on, disjoint from ``train``; none means no evaluation.
        test: Prompts of ``python -m lit_align test`` and ``predict``; the held-out ones where none are given.
        columns: Our column name -> the data's, such as ``{prompt: question}``. Columns ``prompt`` (text) or
            ``messages`` (chat) are what is asked; all others stay in the record that judges see.
        prompts_per_iteration: Prompts answered in one iteration, over all devices.
        batch_size: Prompts (groups) in one forward and backward pass on one device.
        passes: Times each iteration's rollouts are gone through.
        heldout_limit: Evaluate on the first so many held-out prompts only.
        streaming: Read the training pool row by row, for pools larger than memory.
        shuffle_buffer: Rows that a streamed pool is shuffled within.
    """

    def __init__(
        self,
        train: str | Source | None = None,
        heldout: str | Source | None = None,
        test: str | Source | None = None,
        columns: dict[str, str] | None = None,
        prompts_per_iteration: int = 32,
        batch_size: int = 4,
        passes: int = 1,
        heldout_limit: int | None = None,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
    ) -> None:
        super().__init__()
        for name, value in (
            ("prompts_per_iteration", prompts_per_iteration),
            ("batch_size", batch_size),
            ("passes", passes),
        ):
            if value < 1:
                raise ValueError(f"data.{name} must be >= 1, got {value}")
        self.sources = {"train": train, "heldout": heldout, "test": test or heldout}
        self.columns = columns
        self.prompts_per_iteration = prompts_per_iteration
        self.batch_size = batch_size
        self.passes = passes
        self.heldout_limit = heldout_limit
        self.streaming = streaming
        self.shuffle_buffer = shuffle_buffer
        self._pool: Any = None
        self._stream: Iterator[tuple[Record, int]] = iter(())
        self._position = -1
        self._asked: list[int] | str = []  # ids of the pool's rows in their order, or what a stream is read from
        self._sets: dict[str, Prompts] = {}

    def setup(self, stage: str) -> None:
        """Read and check everything that can be checked before any weights load."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        if stage == "fit":
            self.check_module(module)
            self.check_divisible()
            self.prepare(module.encode, "train", "heldout")
        else:
            self.prepare(module.encode, "heldout" if stage == "validate" else "test")
        self.check_shares()

    def prepare(self, encode: Encode, *names: str) -> None:
        """Read the named sets of prompts: ``train``, ``heldout``, ``test``.

        Raises:
            ValueError: Empty or duplicate prompts, held-out prompts that are trained on, fewer prompts than an
                iteration needs, or a prompt that does not fit the model's context.
        """
        self._encode = encode
        for name in names:
            source = self.sources[name]
            if source is None and name != "heldout":
                raise ValueError(f"data.{name} is not given: name a file, a dataset id or pool:topics_train")
            if source is not None and name != "train" and name not in self._sets:
                rows = list(checked(read(source, self.columns), f"data.{name}"))
                rows = rows[: self.heldout_limit] if name == "heldout" else rows
                check_distinct(rows, f"data.{name}")
                self._sets[name] = encode(rows)
        if "train" in names and self._pool is None:
            self._pool = self._read_train()

    def check_module(self, module: Any) -> None:
        """Refuse an algorithm that cannot learn from prompts."""
        module.check_samples()

    def check_divisible(self) -> None:
        """An iteration must be a whole number of optimiser steps, or the last one would be mis-scaled."""
        trainer: Any = self.trainer
        step = self.batch_size * trainer.accumulate_grad_batches * trainer.world_size
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
        for name, prompts in self._sets.items():
            if len(prompts) < trainer.world_size:
                raise ValueError(
                    f"data.{name} has {len(prompts)} prompts for {trainer.world_size} devices, and each needs one: "
                    f"give more prompts or set trainer.devices to {len(prompts)}"
                )

    @property
    def steps_per_iteration(self) -> int:
        """Optimiser steps in one iteration."""
        trainer: Any = self.trainer
        step = self.batch_size * trainer.accumulate_grad_batches * trainer.world_size
        return int(self.prompts_per_iteration * self.passes * trainer.lightning_module.phases // step)

    @property
    def identity(self) -> dict[str, str]:
        """What the run answers, as short digests, once it is prepared: a run goes on with the same, or not at all."""
        sets = {"train": self._asked, "heldout": [content_id(record) for record in self._heldout_records()]}
        dealt = f"{run_seed()} {self.prompts_per_iteration} {self.streaming and self.shuffle_buffer}"
        return {name: text_digest(repr(ids)) for name, ids in sets.items()} | {"deal": dealt}

    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        """The prompts that this rank answers in an iteration."""
        start = iteration * self.prompts_per_iteration
        dealt = self._deal_stream(start) if self.streaming else self._deal(start)
        mine = dealt[rank::world_size]
        prompts = self._encode([record for record, _ in mine])
        # A second pass over the pool draws other responses to the same prompt.
        return replace(prompts, record_id=prompts.record_id + torch.tensor([epoch for _, epoch in mine]))

    def train_dataloader(self) -> DataLoader[Any]:
        """Begin the iteration, collect its rollouts, and serve this rank's minibatches of them."""
        trainer: Any = self.trainer
        module = trainer.lightning_module
        iteration = int(module.iteration)
        if trainer.ckpt_path and 0 <= trainer.max_epochs <= iteration:
            # Lightning asks before it sees that a continued run is over: nothing is collected for it.
            return DataLoader([0])  # type: ignore[arg-type]
        module.begin()
        rollouts = self.collect(module, self.prompts(iteration, trainer.global_rank, trainer.world_size))
        buffer = Buffer(
            rollouts,
            module.loss_weights(rollouts),
            batch_size=self.batch_size,
            passes=self.passes,
            window=trainer.accumulate_grad_batches,
            seed=mixed_seed(run_seed(), iteration),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            phases=module.phases,
        )
        return DataLoader(buffer, batch_size=None, shuffle=False)

    def collect(self, module: Any, prompts: Prompts) -> Rollouts:
        """An iteration's rollouts, of all ranks: the module samples and judges."""
        rollouts: Rollouts = module.collect(prompts)
        return rollouts

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's held-out prompts, as one batch."""
        return self._one_batch("heldout")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's test prompts, as one batch."""
        return self._one_batch("test")

    def predict_dataloader(self) -> DataLoader[Any] | list[Any]:
        """This rank's test prompts, as one batch."""
        return self._one_batch("test")

    def _one_batch(self, name: str) -> DataLoader[Any] | list[Any]:
        prompts = self._sets.get(name)
        if prompts is None:
            return []
        trainer: Any = self.trainer
        mine = prompts.select(range(trainer.global_rank, len(prompts), trainer.world_size))
        return DataLoader([mine], batch_size=None, shuffle=False)  # type: ignore[arg-type]

    def _read_train(self) -> Any:
        source = self.sources["train"]
        assert source is not None
        pool = self.open(source)
        if self.streaming:
            self._asked = repr(source)
            return pool
        heldout = {content_id(record) for record in self._heldout_records()}
        self._asked = check_distinct(self.checked(pool), "data.train", self.key, heldout)
        if len(pool) < self.prompts_per_iteration:
            raise ValueError(
                f"data.train has {len(pool)} prompts, fewer than data.prompts_per_iteration "
                f"({self.prompts_per_iteration})"
            )
        for start in range(0, len(pool), 1000):
            self.check_lengths(list(self.checked(pool.select(range(start, min(start + 1000, len(pool)))))))
        return pool

    def open(self, source: str | Source) -> Any:
        """The rows to train on."""
        return read(source, self.columns, self.streaming)

    def checked(self, rows: Iterable[Record]) -> Iterator[Record]:
        """Rows to train on, as records; a row without what it must have is refused."""
        return checked(rows, "data.train")

    def key(self, record: Record) -> int:
        """What no two rows to train on may share."""
        return content_id(record)

    def check_lengths(self, records: list[Record]) -> None:
        """Refuse what does not fit the model's context."""
        self._encode(records)

    def _heldout_records(self) -> list[Record]:
        return self._sets["heldout"].records if "heldout" in self._sets else []

    def _deal(self, start: int) -> list[tuple[Record, int]]:
        size = len(self._pool)
        dealt = []
        for position in range(start, start + self.prompts_per_iteration):
            epoch, place = divmod(position, size)
            dealt.append((epoch, _permutation(size, run_seed(), epoch)[place]))
        rows = self.checked(self._pool[row] for _, row in dealt)
        return [(record, epoch) for record, (epoch, _) in zip(rows, dealt, strict=True)]

    def _deal_stream(self, start: int) -> list[tuple[Record, int]]:
        if start != self._position:
            self._stream = itertools.islice(self._endless(), start, None)
        self._position = start + self.prompts_per_iteration
        return list(itertools.islice(self._stream, self.prompts_per_iteration))

    def _endless(self) -> Iterator[tuple[Record, int]]:
        heldout = {content_id(record) for record in self._heldout_records()}
        shuffled = self._pool.shuffle(seed=run_seed(), buffer_size=self.shuffle_buffer)
        for epoch in itertools.count():
            shuffled.set_epoch(epoch)
            empty = True
            for record in self.checked(shuffled):
                if content_id(record) in heldout:
                    raise ValueError(f"data.heldout: {_shown(record)} is in data.train too: remove it from one of them")
                empty = False
                yield record, epoch
            if empty:
                raise ValueError("data.train has no rows")


def check_distinct(
    rows: Iterable[Record],
    origin: str,
    key: Callable[[Record], int] = content_id,
    heldout: Collection[int] = (),
) -> list[int]:
    """Refuse duplicates.

    Args:
        rows: Read once, in order.
        origin: Whose rows they are, for messages.
        key: What no two of them may share.
        heldout: Content ids of held-out prompts.

    Returns:
        The keys, in order.

    Raises:
        ValueError: There are no rows, two are the same, or one asks what is held out.
    """
    found: dict[int, int] = {}
    for number, record in enumerate(rows):
        check_not_heldout(record, f"{origin} too (row {number})", heldout)
        first = found.setdefault(key(record), number)
        if first != number:
            raise ValueError(f"{origin}: rows {first} and {number} both ask {_shown(record)}; remove one")
    if not found:
        raise ValueError(f"{origin} has no prompts")
    return list(found)


def check_not_heldout(record: Record, where: str, heldout: Collection[int]) -> None:
    """Refuse a record to train on that asks what is held out; ``heldout`` are content ids."""
    if content_id(record) in heldout:
        raise ValueError(
            f"data.heldout: {_shown(record)} is in {where}; a win rate on prompts that were trained on means nothing: "
            "remove it from one of them"
        )


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(mixed_seed(seed, epoch))
    return torch.randperm(size, generator=generator).tolist()


def _shown(record: Record) -> str:
    text = repr(record.get("prompt") or record["messages"][-1]["content"])
    return text if len(text) <= 60 else text[:56] + "...'"
