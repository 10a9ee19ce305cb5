"""Any algorithm can train again on the recorded responses and verdicts of another run."""

import json
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from typing_extensions import override

from lit_align.data.base import Given, IterationData, Reader
from lit_align.data.ranks import interleaved
from lit_align.data.rollout_store import JUDGE, Origin, load_origin, load_rollouts, same_judge
from lit_align.data.sources import Columns, Rows, check_not_heldout
from lit_align.run_folder import RunFolder, recorded
from lit_align.types import Prompts, Rollouts


class Replay(IterationData):
    """Serves the rollouts of a run again: the same prompts, responses, wins and rewards, without sampler or judge.

    Iteration t serves the t-th that was recorded. Log-probs of anchor and reference are those of *this* run. Recorded
    ones are used only where a first micro-batch gives the same to the last bit: so the reference, and all of iteration
    0, need not be scored again, and a replay of the same config ends with the same weights. With another
    algorithm the policy soon is not the one that sampled: responses are then off-policy, and ``train/sampling_gap``
    says how far. Verdicts are those of the recorded judge; this run's own judge only evaluates, and the log says where
    the two differ.

    Args:
        path: A run folder, a glob of its ``rollouts/*.parquet``, or one file. Files of several ranks are put back into
            the order the prompts were dealt in.
        columns: Our column name -> the name in the held-out and test data.
        cycle: Begin again with the first recorded iteration after the last, instead of refusing a longer run.

    Raises:
        FileNotFoundError: There are no rollouts at ``path``.
        ValueError: A rank's file is missing, or an argument is out of its range.
    """

    def __init__(
        self,
        path: str,
        heldout: Rows | None = None,
        test: Rows | None = None,
        columns: Columns | None = None,
        batch_size: int = 4,
        passes: int = 1,
        heldout_limit: int | None = None,
        cycle: bool = False,
    ) -> None:
        files = recorded(path)
        super().__init__(
            heldout,
            test,
            columns=columns,
            prompts_per_iteration=_rows(files[0]),
            batch_size=batch_size,
            passes=passes,
            heldout_limit=heldout_limit,
        )
        self.path = path
        self.cycle = cycle
        self.files = files
        self._served: tuple[int, Rollouts] | None = None

    @override
    def setup(self, stage: str) -> None:
        super().setup(stage)
        trainer: Any = self.trainer
        if stage == "fit" and not self.cycle and trainer.max_epochs > len(self.files):
            raise ValueError(
                f"data.path: {self.path} holds {len(self.files)} iterations, and trainer.max_epochs is "
                f"{trainer.max_epochs}: lower it, or go through them again with --data.cycle true"
            )

    @cached_property
    @override
    def gives(self) -> tuple[Given, ...]:
        schemas = [(files[0], pq.read_schema(files[0])) for files in self.files]
        return tuple(
            Given(
                f"data.path: {path}: ",
                tuple(json.loads(schema.metadata[b"lit_align"])["source"]),
                rewarded="rewards" in schema.names,
            )
            for path, schema in schemas
        )

    @cached_property
    @override
    def given_by(self) -> Origin:
        origins = [load_origin(path) for files in self.files for path in files]
        judges = [{name: origin[name] for name in JUDGE if name in origin} for origin in origins]
        return max(judges, key=len)  # the file that says most decides

    @cached_property
    @override
    def day(self) -> date | None:
        path = self.files[0][0]
        day = load_origin(path).get("day")
        return RunFolder(path.parent.parent).began if day is None else date.fromisoformat(day)

    @override
    def prompts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Prompts:
        return self.rollouts(iteration, rank, world_size).responses.prompts

    @override
    def given(self, prompts: Prompts, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts:
        del prompts
        return self.rollouts(iteration, rank, world_size)

    @override
    def read_train(self) -> None:
        for files in self.files:
            if "wins" not in pq.read_schema(files[0]).names:
                raise ValueError(f"data.path: {files[0]} holds responses that were never judged; leave it out")
            if _rows(files) != self.prompts_per_iteration:
                raise ValueError(
                    f"data.path: iterations are of {self.prompts_per_iteration} and of {_rows(files)} prompts "
                    f"({files[0]}); give those of one size, as a glob"
                )
        self._check_one_judge()
        self.asked = self._iteration(0).responses.prompts.record_id.tolist()
        heldout = self.heldout_questions
        for path in (path for files in self.files for path in files if heldout):
            for row, record in enumerate(pq.read_table(path, columns=["record"])["record"].to_pylist()):
                check_not_heldout(json.loads(record), f"{path} too (row {row})", heldout)

    def _check_one_judge(self) -> None:
        for path in (path for files in self.files for path in files):
            if not same_judge(self.given_by, load_origin(path)):
                raise ValueError(
                    f"data.path: another judge than in other iterations has judged {path}, in its name, settings or "
                    "code: give iterations of one judge, as a glob"
                )

    @override
    def check_read(self) -> None:
        """Refuse rollouts that another tokenizer or template has made."""
        assert self.reader is not None
        check_tokens(self.reader, self._iteration(0), self.files[0][0])

    def rollouts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Rollouts:
        """Return this rank's rollouts of an iteration, as they were recorded."""
        whole = self._iteration(iteration % len(self.files))
        return whole.select(range(rank, len(whole), world_size))

    def _iteration(self, number: int) -> Rollouts:
        if self._served is None or self._served[0] != number:
            shares = [load_rollouts(path) for path in self.files[number]]
            judged = [share for share in shares if isinstance(share, Rollouts)]
            assert len(judged) == len(shares)
            self._served = number, interleaved(judged) if len(judged) > 1 else judged[0]
        return self._served[1]


def check_tokens(reader: Reader, rollouts: Rollouts, path: Path) -> None:
    """Refuse tokens that a policy would not have made of the same prompts, or cannot read.

    Args:
        reader: The policy; its tokenizer is loaded, its weights are not.
        rollouts: The recorded rollouts.
        path: Their file, for messages.

    Raises:
        ValueError: The tokens differ, or are longer than the policy's context.
    """
    prompts = rollouts.responses.prompts.trim()
    again = reader.encode(prompts.records).trim()
    if again.ids.shape != prompts.ids.shape or not ((again.ids == prompts.ids) | ~prompts.mask).all():
        raise ValueError(
            f"data.path: the prompts of {path} have other tokens than model.policy makes of them: its tokenizer, chat "
            "template or system message is not that of the run that drew the responses; set model.policy.name and "
            "model.policy.system as they were"
        )
    tokens = int((prompts.mask.sum(1) + rollouts.responses.lengths.amax(1)).max())
    if tokens > reader.context_length:
        raise ValueError(
            f"data.path: a prompt and its response in {path} have {tokens} tokens, more than the model's context of "
            f"{reader.context_length}"
        )


def _rows(files: list[Path]) -> int:
    return sum(pq.read_metadata(file).num_rows for file in files)
