"""Some columns of a run's table hold a judge's opinion: no column holds those of two."""

import logging
from collections.abc import Mapping

from lit_align.data.rollout_store import Origin, load_origin, same_judge
from lit_align.run_folder import RunFolder

log = logging.getLogger(__name__)

Row = dict[str, float]
"""Holds the metrics of an iteration, by name."""

ColumnJudges = dict[str, Origin]
"""Maps a column to the judge whose opinion it holds."""


def columns_of_others(was: Mapping[str, Origin], now: Mapping[str, Origin]) -> set[str]:
    """Return the columns that hold the opinion of another judge than they will."""
    return {column for column, judge in now.items() if column in was and not same_judge(was[column], judge)}


def without(history: list[Row], columns: set[str], run: RunFolder, *, tells: bool) -> list[Row]:
    """Return the rows without the values of some columns; the table that had them is kept beside the one to come.

    ``tells`` is true in the process that keeps the table and logs it: the first.
    """
    emptied = sorted(columns & {name for row in history for name in row})
    if not emptied:
        return history
    if tells:
        older = run.older_metrics()
        if run.metrics.exists():
            run.metrics.replace(older)
        log.warning(
            "%s: another judge says %s from here on: up to iteration %d they are left empty, and %s has them",
            run.metrics,
            ", ".join(name for name in emptied if not name.endswith(("_low", "_high"))),
            history[-1]["iteration"],
            older.name,
        )
    return [{name: value for name, value in row.items() if name not in columns} for row in history]


def judge_by_name(history: list[Row], run: RunFolder, world_size: int) -> Origin:
    """Return the judge of a run whose checkpoints do not say it, as the files of its evaluations name it."""
    paths = (run.evaluation(int(row["iteration"]), 0, world_size) for row in reversed(history))
    path = next((path for path in paths if path.exists()), None)
    return {} if path is None else load_origin(path)
