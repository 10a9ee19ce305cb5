"""A judge whose verdicts are on disk, block by block, before the next block is judged: none is asked for twice."""

import json
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.judges.base import Judge, Report, Verdict
from lit_align.judges.identity import tell_matched_by_name
from lit_align.judges.patience import Faults
from lit_align.judges.reward import RewardJudge
from lit_align.types import Prompts, Record
from lit_align.utils.digests import text_digest

log = logging.getLogger(__name__)


class Journal:
    """Key -> value, a line each, with its checksum; a line that a kill cut short, or that is damaged, is not there.

    Args:
        path: The file, made with the first line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, Any] | None = None

    def get(self, key: str) -> Any | None:
        """What was put under a key."""
        if self._known is None:
            self._known = self._read()
        return self._known.get(key)

    def put(self, key: str, value: Any) -> None:
        """Keep a value; it is on its way to the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps([key, value])
        with self.path.open("a") as file:  # a line that was cut short is closed first
            file.write(f"\n{zlib.crc32(line.encode()):08x} {line}\n")

    def _read(self) -> dict[str, Any]:
        known, damaged = {}, 0
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for checksum, _, line in (line.partition(b" ") for line in lines if line):
            if checksum == b"%08x" % zlib.crc32(line):
                key, value = json.loads(line)
                known[key] = value
            else:
                damaged += 1
        if damaged:
            log.warning("%s: %d damaged lines; what they held is judged again", self.path, damaged)
        return known


class Journalled(Judge):
    """Judges in blocks of ``judge.prompts_at_once`` prompts, each from the journal if it is there.

    A block without a single answer is not kept: the judge may be back when the run goes on.

    Args:
        judge: Who judges.
        path: The journal.
    """

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge = judge
        self.journal = Journal(path)
        self.has_rewards = judge.has_rewards

    @property
    def name(self) -> str:
        """The judge's."""
        return self.judge.name

    @property
    def identity(self) -> str:
        """The judge's."""
        return self.judge.identity

    @property
    def faults(self) -> Faults:
        """The judge's."""
        return self.judge.faults

    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """P(first beats second), as the judge says."""
        return self.judge.compare(prompts, first, second, records)

    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        """Judge all pairs of every group."""
        parts = []
        for rows in self._blocks(len(texts)):
            block, some = prompts.select(rows), [list(texts[row]) for row in rows]
            key, known = self._known("verdict", block, some)
            if known is not None:
                parts.append(Verdict(**{name: _tensor(value) for name, value in known.items()}))
                if report is not None:
                    report(len(rows))
                continue
            parts.append(self.judge.verdict(block, some, report))
            if _answers(parts[-1]):
                self.journal.put(key, {name: _plain(value) for name, value in vars(parts[-1]).items()})
        rewards = [part.rewards for part in parts if part.rewards is not None]
        wins, compared = torch.cat([part.wins for part in parts]), torch.cat([part.compared for part in parts])
        return Verdict(wins, compared, torch.cat(rewards) if rewards else None)

    def beats(
        self,
        prompts: Prompts,
        first: list[str],
        second: list[str],
        first_rewards: Float[Tensor, " batch"] | None = None,
        second_rewards: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """P(first beats second) for one pair a prompt; where rewards that are known say it, nothing is asked."""
        if isinstance(self.judge, RewardJudge) and first_rewards is not None and second_rewards is not None:
            return self.judge.beats(prompts, first, second, first_rewards, second_rewards)
        parts = []
        for rows in self._blocks(len(first)):
            block, pair = prompts.select(rows), [[texts[row] for row in rows] for texts in (first, second)]
            key, known = self._known("beats", block, pair)
            parts.append(self.judge.beats(block, pair[0], pair[1]) if known is None else _tensor(known))
            if known is None and not parts[-1].isnan().all():
                self.journal.put(key, _plain(parts[-1]))
        return torch.cat(parts)

    def _blocks(self, prompts: int) -> list[range]:
        size = self.judge.prompts_at_once
        return [range(start, min(start + size, prompts)) for start in range(0, prompts, size)]

    def _known(self, question: str, prompts: Prompts, texts: Sequence[Sequence[str]]) -> tuple[str, Any | None]:
        """The key of a question to this judge, and the answer if it is there."""
        asked = repr((prompts.record_id.tolist(), texts))
        key = text_digest(question, self.judge.identity, asked)
        known = self.journal.get(key)
        if known is None:  # version 0.1 had keys by name
            name = type(self.judge).__name__, self.judge.name
            known = self.journal.get(text_digest(question, *name, asked))
            if known is not None:
                tell_matched_by_name(" ".join(name), self.journal.path.parent.parent)
        return key, known


def _answers(verdict: Verdict) -> bool:
    """Whether there is more in it than that a response is as good as itself."""
    diagonal = verdict.compared.shape[0] * verdict.compared.shape[1]
    rewarded = verdict.rewards is not None and not bool(verdict.rewards.isnan().all())
    return rewarded or int(verdict.compared.sum()) > diagonal


def _plain(value: Tensor | None) -> Any:
    """A tensor's dtype and numbers, which JSON holds to the last bit."""
    return None if value is None else [str(value.dtype).removeprefix("torch."), value.tolist()]


def _tensor(plain: Any) -> Any:
    return None if plain is None else torch.tensor(plain[1], dtype=getattr(torch, plain[0]))
