"""Where a run is: the stage of its clock, its iteration, and what it has on disk; a dying process leaves word of it."""

import gc
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lit_align import AlignmentModule
from lit_align.iteration.stages import Relay, Stages

_open: list[str] = []  # stages that are under way, the outermost first


@dataclass(frozen=True)
class Place:
    """Where a run is, and what it has on disk by then.

    Attributes:
        stage: The stage that is under way, and those inside it, such as ``evaluate/sample``; empty between stages.
        iteration: The module's counter: how many iterations are over. None where there is no module yet.
        rollouts: Number of the newest, what its file holds, and how many verdicts are beside it.
        evaluation: The same of held-out prompts.
        checkpoints: All that there are, and the one that ``last.ckpt`` points to.
    """

    stage: str
    iteration: int | None
    rollouts: str = ""
    evaluation: str = ""
    checkpoints: str = ""


def watch_stages() -> None:
    """Let this process remember which stages are under way."""
    for clock in (Stages, Relay):
        clock.stage = _watched(clock.stage)  # type: ignore[method-assign]


def in_a_stage() -> bool:
    """Say whether a stage of this process is under way."""
    return bool(_open)


def leave_word() -> None:
    """Write where the run of this process is to the file of ``$DIED``."""
    Path(os.environ["DIED"]).write_text(json.dumps(asdict(_here())))


def word_of(path: Path) -> Place | None:
    """Where a process has died, if it left word."""
    return Place(**json.loads(path.read_text())) if path.exists() else None


def _here() -> Place:
    stage = "/".join(_open)
    module = next((thing for thing in gc.get_objects() if issubclass(type(thing), AlignmentModule)), None)
    if module is None:
        return Place(stage, None)
    run, rank = module.run_folder, module.global_rank
    shares = [_newest(path.parent, rank) for path in (run.rollouts(0), run.evaluation(0))]
    return Place(stage, int(module.iteration), *shares, _checkpoints(run.checkpoints))


def _watched(stage: Any) -> Any:
    @contextmanager
    def watched(clock: Stages, name: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        _open.append(name)
        try:
            with stage(clock, name, *args, **kwargs) as advance:
                yield advance
        finally:
            _open.pop()

    return watched


def _newest(folder: Path, rank: int) -> str:
    """The newest rollouts of a process."""
    files = sorted(folder.glob(f"*-rank{rank}*"))
    newest = max((_number(file) for file in files), default=0)
    kinds = [_held(file) for file in files if _number(file) == newest]
    return f"{newest} {', '.join(kinds)}" if kinds else ""


def _checkpoints(folder: Path) -> str:
    files = sorted(folder.glob("iteration-*"))
    found = [f"{_number(file)}{'' if file.suffix == '.ckpt' else ' unnamed'}" for file in files]
    last = folder / "last.ckpt"
    return ", ".join([*found, *([f"last is {_number(last.readlink())}"] if last.is_symlink() else [])])


def _number(file: Path) -> int:
    """Of an iteration, which is the first number in a name."""
    return int(re.findall(r"\d+", file.name)[0])


def _held(path: Path) -> str:
    """Say what a file of rollouts, or a store of verdicts, holds."""
    if path.suffix == ".partial":
        return "unnamed"
    if path.suffix != ".parquet":
        with closing(sqlite3.connect(path)) as file:
            return f"verdicts: {file.execute('SELECT count(*) FROM kept').fetchone()[0]}"
    columns = pq.read_schema(path).names
    if "wins" not in columns:
        return "sampled"
    return "scored" if any(name.endswith("_token_logps") for name in columns) else "judged"
