"""A run folder's names on disk are a format and are spelled here: what lies where, and which of it is whole.

A checkpoint is the archive that ``torch.save`` writes, with a CRC-32 of every record in it. PyTorch does not look at
them when it reads; this does.
"""

import json
import logging
import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from glob import glob
from pathlib import Path

import torch

from lit_align.utils.files import write_text

log = logging.getLogger(__name__)

_ROLLOUTS = re.compile(r"iteration-(?P<iteration>\d+)-rank(?P<rank>\d+)(-of-(?P<of>\d+))?\.parquet")


@dataclass(frozen=True)
class RunFolder:
    """Says where everything of a run is, or will be; the folder at ``path`` need not be there."""

    path: Path

    @classmethod
    def around(cls, checkpoint: Path) -> "RunFolder":
        """Return the folder that a checkpoint is of, as long as it has not left it."""
        return cls(checkpoint.parent.parent)

    @classmethod
    def all_under(cls, root: Path) -> "list[RunFolder]":
        """Return every run under a root that has left its config."""
        return [cls(path.parent) for path in root.glob("*/config.yaml")]

    @property
    def has_begun(self) -> bool:
        """Say whether a run has left what only a run leaves; other programs have folders called checkpoints too."""
        checkpoints, rollouts = self.checkpoint(0).parent, self.rollouts(0).parent
        written = (*checkpoints.glob("iteration-*.ckpt"), *rollouts.glob("iteration-*.parquet"))
        return self.identity.is_file() or bool(written)

    @property
    def config(self) -> Path:
        """Return the merged config that the run last went on with."""
        return self.path / "config.yaml"

    @property
    def older_configs(self) -> list[Path]:
        """Return the configs it went on with before."""
        return list(self.path.glob("config-*.yaml"))

    def older_config(self, number: int) -> Path:
        """Return the config that made room for another as the ``number``-th, from 1."""
        return self.path / f"config-{number}.yaml"

    def replace_config(self, text: str) -> None:
        """Leave a config; the one that was there makes room as ``config-1.yaml``, ``config-2.yaml``, ..."""
        if self.config.exists():
            write_text(self.older_config(1 + len(self.older_configs)), self.config.read_text())
        write_text(self.config, text)

    @property
    def identity(self) -> Path:
        """Return the digests of what the run is made of."""
        return self.path / "identity.json"

    @property
    def began(self) -> date | None:
        """Return the day on which the run began, for its prompts; None where there is no run yet.

        Where the run does not say it, its prompts have no date, or an earlier version has begun it: that wrote down
        what the run is made of once, as it began.

        Raises:
            ValueError: The file that says it is damaged.
        """
        if not self.identity.exists():
            return None
        try:
            day = json.loads(self.identity.read_text()).get("day")
        except ValueError as error:
            raise ValueError(f"{self.identity} is damaged ({error})") from error
        return date.fromtimestamp(self.identity.stat().st_mtime) if day is None else date.fromisoformat(day)

    @property
    def versions(self) -> Path:
        """Return the versions of the packages that matter."""
        return self.path / "versions.json"

    @property
    def metrics(self) -> Path:
        """Return the table with a row for each iteration, the same in every run of the same seed."""
        return self.path / "metrics.csv"

    def older_metrics(self) -> Path:
        """Return where a table goes that makes room for one of other judges: ``metrics-1.csv`` first."""
        return self.path / f"metrics-{1 + len(list(self.path.glob('metrics-*.csv')))}.csv"

    @property
    def timings(self) -> Path:
        """Return the table of seconds and tokens per second of each iteration."""
        return self.path / "timings.csv"

    @property
    def predictions(self) -> Path:
        """Return the records with the responses that ``predict`` has drawn."""
        return self.path / "predictions.jsonl"

    @property
    def model(self) -> Path:
        """Return the aligned model, exported at the end."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Return the folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """Return what stands for the last checkpoint."""
        return self.checkpoints / "last.ckpt"

    def checkpoint(self, iteration: int) -> Path:
        """Return the checkpoint at the end of an iteration, from 1."""
        return self.checkpoints / f"iteration-{iteration:04d}.ckpt"

    def written_checkpoints(self) -> list[Path]:
        """Return the checkpoints that are there, the one written last first, whether they are whole or not."""
        found = [path for path in self.checkpoints.glob("*.ckpt") if not path.is_symlink()]
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)

    def rollouts(self, iteration: int, rank: int = 0, world_size: int = 1) -> Path:
        """Return a rank's share of what an iteration, from 0, trains on."""
        return self.path / "rollouts" / _share(f"iteration-{iteration:04d}", rank, world_size)

    def evaluation(
        self, iteration: int, rank: int = 0, world_size: int = 1, *, test: bool = False, of: str = ""
    ) -> Path:
        """Return a rank's share of the responses to held-out prompts, or to those of a test, after so many iterations.

        ``of`` is a short name of the judge, sampler and prompts, where they are not those of the run.
        """
        stem = f"{'test' if test else 'heldout'}-{iteration:04d}"
        return self.path / "evaluation" / _share(f"{stem}-{of}" if of else stem, rank, world_size)

    def fault(self, step: int, minibatch: int, rank: int) -> Path:
        """Return a rank's minibatch of a step that was not finite."""
        return self.path / "faults" / f"step-{step:06d}-minibatch-{minibatch:04d}-rank{rank}.parquet"

    def last_written(self) -> int:
        """Return when the run last went on, in nanoseconds; looking at it leaves files in it too."""
        files = [self.config, *self.written_checkpoints(), *self.rollouts(0).parent.glob("*")]
        return max(file.stat().st_mtime_ns for file in files)


def verdicts_of(path: Path) -> Path:
    """Return the store of verdicts beside a file of rollouts."""
    return path.with_suffix(".verdicts.sqlite")


def earlier_checkpoints(path: Path) -> list[Path]:
    """Return the checkpoints of earlier iterations in the same folder, the newest first."""
    return sorted((file for file in path.parent.glob("iteration-*.ckpt") if file.name < path.name), reverse=True)


def whole_checkpoint(path: Path) -> Path:
    """Return what :func:`trusted_checkpoint` does.

    Raises:
        ValueError: There is no whole one.
    """
    trusted = trusted_checkpoint(path)
    if trusted is None:
        raise ValueError(f"{path} is damaged, and there is no checkpoint before it")
    return trusted


def trusted_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint if it is whole, else the newest whole one before it, with a warning, or None.

    Args:
        path: A checkpoint, or ``last.ckpt``.

    Raises:
        FileNotFoundError: There is no such file, nor ever was.
        ValueError: It holds objects that only code of its own could make.
    """
    run = RunFolder.around(path)
    if path.name == run.last.name:
        candidates = run.written_checkpoints() if path.parent.name == run.checkpoints.name else [path]
    else:
        candidates = [path, *earlier_checkpoints(path)] if path.exists() else []
    if not candidates:
        there = ", ".join(file.name for file in sorted(path.parent.glob("*.ckpt"))) or "none"
        raise FileNotFoundError(f"ckpt_path: there is no checkpoint {path} (in its folder: {there})")
    for candidate in candidates:
        if is_whole(candidate):
            return candidate
        log.warning("%s is damaged: the checkpoint before it is used", candidate)
    return None


def is_whole(path: Path) -> bool:
    """Return whether all records of a checkpoint have the checksums they were written with; shards are not read."""
    if path.is_dir():
        return True
    state = path.stat()
    return _is_whole(path.resolve(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _is_whole(path: Path, size: int, written: int) -> bool:
    """Read a file once, however often it is asked about: checkpoints are large."""
    del size, written
    try:
        with zipfile.ZipFile(path) as archive:
            whole = archive.testzip() is None
        if whole:  # what lists the records has no checksum of its own
            torch.load(path, map_location="meta", mmap=True, weights_only=True)
        return whole
    except Exception as error:  # a damaged archive fails in any way there is
        if type(error).__name__ == "UnpicklingError":  # nothing is wrong with the file
            raise ValueError(f"{path} is refused: it holds objects that only code in it could make") from error
        return False


def recorded(path: str) -> list[list[Path]]:
    """Return the rollout files of a run: iteration by iteration, the files of its ranks in order.

    Where an iteration was collected twice, by different numbers of ranks, the later ones are taken.

    Args:
        path: A run folder, a glob, or one file.

    Raises:
        FileNotFoundError: There are none.
        ValueError: The file of a rank is missing.
    """
    folder = Path(path)
    pattern = RunFolder(folder).rollouts(0).with_name("iteration-*.parquet") if folder.is_dir() else folder
    files = sorted(map(Path, glob(str(pattern))), key=lambda file: file.stat().st_mtime_ns)
    if not files:
        raise FileNotFoundError(f"data.path: there are no rollouts at {pattern}")
    found: dict[int, dict[int, dict[int, Path]]] = defaultdict(lambda: defaultdict(dict))
    for file in files:
        match = _ROLLOUTS.fullmatch(file.name)
        iteration, rank, ranks = (int(match[name] or 1) for name in ("iteration", "rank", "of")) if match else (0, 0, 1)
        newest = found[iteration].pop(ranks, {})
        if rank in newest:
            raise ValueError(f"data.path: {file} and {newest[rank]} are both of iteration {iteration}")
        found[iteration][ranks] = newest | {rank: file}  # the number of ranks that wrote last comes last
    return [_of_all_ranks(iteration, by_ranks) for iteration, by_ranks in sorted(found.items())]


def _of_all_ranks(iteration: int, found: dict[int, dict[int, Path]]) -> list[Path]:
    for ranks, files in reversed(found.items()):
        if files.keys() == set(range(ranks)):
            return [files[rank] for rank in range(ranks)]
    ranks, files = next(reversed(found.items()))
    missing = min(set(range(ranks)) - files.keys())
    raise ValueError(
        f"data.path: iteration {iteration} has no file of rank {missing} beside {next(iter(files.values()))}"
    )


def _share(stem: str, rank: int, world_size: int) -> str:
    """Return the file of a rank's share, which no other number of ranks takes for its own."""
    return f"{stem}-rank{rank}.parquet" if world_size == 1 else f"{stem}-rank{rank}-of-{world_size}.parquet"
