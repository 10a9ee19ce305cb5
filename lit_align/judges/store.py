"""Answers and verdicts of judges go to disk as they come, so that none is bought twice."""

import json
import logging
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, time, timedelta
from decimal import Decimal
from glob import escape
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.judges.base import Judge, Report, Verdict
from lit_align.judges.identity import tell_matched_by_name
from lit_align.judges.patience import Faults
from lit_align.judges.reward import RewardJudge
from lit_align.types import Prompts, Record
from lit_align.utils.digests import text_digest

log = logging.getLogger(__name__)

T = TypeVar("T")

# SQLite has no checksums of its own, and would give back a damaged value as it is.
_COLUMNS = "key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL"
_MAKE = f"CREATE TABLE IF NOT EXISTS kept ({_COLUMNS}) WITHOUT ROWID"
_KEEP = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?)"
_FIND = "SELECT key, value, checksum FROM kept WHERE key IN (SELECT value FROM json_each(?))"
_IS_MADE = "SELECT 1 FROM sqlite_master WHERE name = 'kept'"
_BEGINNING = b"SQLite format 3\0"
_ASKED = ("prompt", "messages")  # a prompt's id is a hash of these columns
_PLAIN = (date, time, timedelta, Decimal, bytes)  # the text of these says all of them; a datetime is a date
_LONGEST_WAIT = 60.0  # another process has so many seconds to finish its write


class Store:
    """Keeps values that JSON holds under keys, in one table of an SQLite file that is made with the first value.

    A value is on disk when :meth:`put` returns, whatever ends the process afterwards. Each rank writes a file of its
    own and looks at the others'; runs may share theirs. The JSON lines that an earlier version has left beside the file
    are imported when it is made, and stay where they are.

    Args:
        path: The file of rank 0, ``answers.sqlite``. The name of the JSON lines, ``answers.jsonl``, means the same.
        rank: Rank of the process, among those that share the work.
    """

    def __init__(self, path: Path, rank: int = 0) -> None:
        self._first = path.with_suffix(".sqlite") if path.suffix == ".jsonl" else path
        self.path = _of_rank(self._first, str(rank)) if rank else self._first

    def check(self) -> None:
        """Refuse a file that is something else.

        Raises:
            ValueError: The file is no SQLite file.
        """
        if self.path.exists():
            with self.path.open("rb") as file:
                beginning = file.read(len(_BEGINNING))
            if beginning not in (b"", _BEGINNING):
                raise ValueError(f"{self.path} is no SQLite file; JSON lines need a name that ends in .jsonl")

    def known(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return those keys that something was put under, by whichever rank, and what."""
        if self._lines.exists() and not _rows(self.path, _IS_MADE):
            self._write([])
        others = self._first.parent.glob(_of_rank(self._first, "*", stem=escape(self._first.stem)).name)
        found: dict[str, Any] = {}
        for path in dict.fromkeys([self.path, self._first, *sorted(others)]):
            for key, text, checksum in _rows(path, _FIND, json.dumps(list(keys))):
                if checksum == _checksum(key, text):
                    found.setdefault(key, json.loads(text))
                else:
                    log.warning("%s is damaged: one of its values is asked for anew", path)
        return found

    def put(self, key: str, value: Any) -> None:
        """Keep a value; safe from several threads and processes."""
        self._write([(key, value)])

    def remove(self) -> None:
        """Take what this rank has kept off the disk, and the JSON lines of an earlier version."""
        journal = self.path.with_name(f"{self.path.name}-journal")
        for path in (self.path, journal, self._lines):  # the order matters, since a journal alone is nothing to SQLite
            path.unlink(missing_ok=True)

    @property
    def _lines(self) -> Path:
        return self._first.with_suffix(".jsonl")

    def _write(self, values: Sequence[tuple[str, Any]]) -> None:
        """Write all values or none, whatever ends the process meanwhile."""

        def write() -> None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _opened(self.path, "rwc") as file:
                file.execute("BEGIN IMMEDIATE")
                first = [] if file.execute(_IS_MADE).fetchone() else [*_values_of(self._lines)]
                file.execute(_MAKE)
                texts = [(key, json.dumps(value)) for key, value in [*first, *values]]
                file.executemany(_KEEP, [(key, text, _checksum(key, text)) for key, text in texts])
                file.execute("COMMIT")

        _unless_damaged(self.path, write)


class StoredJudge(Judge):
    """Judges in blocks of ``judge.prompts_at_once`` prompts; a block that is in the store is not judged again.

    A block without a single answer is not kept: the judge may be back when the run goes on.

    Args:
        judge: The judge that is asked.
        path: The file of the store.
    """

    def __init__(self, judge: Judge, path: Path) -> None:
        self.judge = judge
        self.store = Store(path)
        self.has_rewards = judge.has_rewards

    @property
    @override
    def name(self) -> str:
        return self.judge.name

    @property
    @override
    def identity(self) -> str:
        return self.judge.identity

    @property
    @override
    def faults(self) -> Faults:
        return self.judge.faults

    @override
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        return self.judge.compare(prompts, first, second, records)

    @override
    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        parts = []
        for rows in self._blocks(len(texts)):
            block, some = prompts.select(rows), [list(texts[row]) for row in rows]
            key, known = self._kept("verdict", block, some)
            if known is not None:
                parts.append(Verdict(**{name: _tensor(value) for name, value in known.items()}))
                if report is not None:
                    report(len(rows))
                continue
            parts.append(self.judge.verdict(block, some, report))
            if _answers(parts[-1]):
                self.store.put(key, {name: _plain(value) for name, value in vars(parts[-1]).items()})
        rewards = [part.rewards for part in parts if part.rewards is not None]
        wins, compared = torch.cat([part.wins for part in parts]), torch.cat([part.compared for part in parts])
        return Verdict(wins, compared, torch.cat(rewards) if rewards else None)

    @override
    def beats(
        self,
        prompts: Prompts,
        first: list[str],
        second: list[str],
        first_rewards: Float[Tensor, " batch"] | None = None,
        second_rewards: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        if isinstance(self.judge, RewardJudge) and first_rewards is not None and second_rewards is not None:
            return self.judge.beats(prompts, first, second, first_rewards, second_rewards)
        parts = []
        for rows in self._blocks(len(first)):
            block, pair = prompts.select(rows), [[texts[row] for row in rows] for texts in (first, second)]
            key, known = self._kept("beats", block, pair)
            parts.append(self.judge.beats(block, pair[0], pair[1]) if known is None else _tensor(known))
            if known is None and not parts[-1].isnan().all():
                self.store.put(key, _plain(parts[-1]))
        return torch.cat(parts)

    def _blocks(self, prompts: int) -> list[range]:
        size = self.judge.prompts_at_once
        return [range(start, min(start + size, prompts)) for start in range(0, prompts, size)]

    def _kept(self, question: str, prompts: Prompts, texts: Sequence[Sequence[str]]) -> tuple[str, Any | None]:
        """Return the key of a question, and what is known of it."""
        kind, name = type(self.judge).__name__, self.judge.name
        asked = repr((prompts.record_id.tolist(), texts))
        beside = columns_beside(prompts.records)
        key = text_digest(question, self.judge.identity, asked, *([beside] if beside else []))
        by_name = text_digest(question, kind, name, asked)  # version 0.1 kept it so
        known = self.store.known([key, by_name])
        if by_name in known and key not in known:
            tell_matched_by_name(f"{kind} {name}", self.store.path.parent.parent)
        return key, known.get(key, known.get(by_name))


def columns_beside(records: Sequence[Record]) -> str:
    """Return a short digest of what rows say beside what is asked, which judges see too; empty if there is nothing."""
    beside = [{name: value for name, value in record.items() if name not in _ASKED} for record in records]
    return text_digest(json.dumps(beside, sort_keys=True, default=_as_text)) if any(beside) else ""


def _as_text(value: Any) -> str:
    """Say what JSON cannot hold, in the same words in every process: a date or number whole, a picture by its kind."""
    return f"{type(value).__name__} {repr(value) if isinstance(value, _PLAIN) else ''}"


def _answers(verdict: Verdict) -> bool:
    """Say whether there is more in it than that a response is as good as itself."""
    diagonal = verdict.compared.shape[0] * verdict.compared.shape[1]
    rewarded = verdict.rewards is not None and not bool(verdict.rewards.isnan().all())
    return rewarded or int(verdict.compared.sum()) > diagonal


def _plain(value: Tensor | None) -> Any:
    """Return a tensor's dtype and numbers, which JSON holds to the last bit."""
    return None if value is None else [str(value.dtype).removeprefix("torch."), value.tolist()]


def _tensor(plain: Any) -> Any:
    return None if plain is None else torch.tensor(plain[1], dtype=getattr(torch, plain[0]))


def _of_rank(path: Path, rank: str, stem: str | None = None) -> Path:
    """Return the file of another rank than the first."""
    return path.with_name(f"{stem or path.stem}.rank{rank}{path.suffix}")


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Open a connection without transactions of its own making."""
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_LONGEST_WAIT, isolation_level=None)) as file:
        yield file


def _rows(path: Path, query: str, *parameters: str) -> list[Any]:
    """Return what a query finds in a file, if there is one; it is looked at read-only."""

    def look(mode: str = "ro") -> list[Any]:
        if not path.exists():
            return []
        try:
            with _opened(path, mode) as file:
                return file.execute(query, parameters).fetchall()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname == "SQLITE_READONLY_ROLLBACK":  # a killed writer's half a write is undone
                return look("rw")
            if str(error).startswith("no such table"):  # the writer has not got that far
                return []
            raise

    return _unless_damaged(path, look)


def _unless_damaged(path: Path, act: Callable[[], T]) -> T:
    """Return what an act on a file gives; a damaged file is named and put aside, and the act done without it."""
    try:
        return act()
    except sqlite3.DatabaseError as error:
        if type(error) is not sqlite3.DatabaseError:  # there is a lock, no room or no right, and the file is whole
            raise
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("%s is damaged (%s): it is now %s, and what it held is asked for anew", path, error, aside.name)
        path.replace(aside)
        return act()


def _checksum(key: str, text: str) -> int:
    return zlib.crc32(f"{key} {text}".encode())


def _values_of(lines: Path) -> Iterator[tuple[str, Any]]:
    """Yield key and value of each whole line that an earlier version has written, answers and verdicts alike."""
    if not lines.exists():
        return
    damaged = 0
    for line in filter(None, lines.read_bytes().splitlines()):
        checksum, _, text = line.partition(b" ")
        try:
            if checksum == b"%08x" % zlib.crc32(text):
                key, value = json.loads(text)
            else:
                row = json.loads(line)
                key, value = row["key"], row["answer"]
            yield key, value
        except (ValueError, KeyError, TypeError):
            damaged += 1
    if damaged:
        log.warning("%s: %d damaged lines; what they held is asked for anew", lines, damaged)
