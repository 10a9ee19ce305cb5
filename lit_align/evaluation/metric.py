"""Users measure the held-out responses with metrics of their own, besides what is always measured."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from typing import Any

import torch

from lit_align.data.ranks import from_all_ranks, interleaved, order_of_shares
from lit_align.types import Rollouts
from lit_align.utils.arguments import note_arguments
from lit_align.utils.user_functions import directory_kept

log = logging.getLogger(__name__)

Measure = Callable[[Rollouts, list[str]], Any]
"""Any function of this type is a metric, as a :class:`Metric` is."""


class Metric(ABC):
    """A metric measures the responses to the held-out prompts; a function with the same arguments is one too.

    ``model.metrics`` names its column: ``val/NAME`` for a number, ``val/NAME_KEY`` for each number of a dictionary. The
    first device calls it at each evaluation, with the responses of all devices in the order of the prompts, on the CPU.
    If it raises or returns no finite number, a warning says so, the value is nan, and the run goes on.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        note_arguments(cls)

    @abstractmethod
    def __call__(self, rollouts: Rollouts, texts: list[str]) -> float | Mapping[str, float]:
        """Return a number, or several by name.

        Args:
            rollouts: One response to each held-out prompt. ``responses.prompts.records`` are the rows of the data,
                ``anchor_logps`` log-probs under the policy and ``reference_logps`` under the initial policy, in nats;
                ``rewards`` are there if the training judge gives any.
            texts: The responses as text.
        """


class OwnMetrics:
    """Measures the held-out responses of all ranks with the metrics of a user.

    Args:
        metrics: The metrics by name.
        taken: Columns that are always measured; a name that might write to one raises ValueError.
    """

    def __init__(self, metrics: Mapping[str, Measure], taken: Collection[str]) -> None:
        for name in metrics:
            # The keys of a dictionary come after the name, and are not known yet.
            other = next((column for column in taken if f"{column}_".startswith(f"{name}_")), None)
            if other is not None:
                raise ValueError(f"model.metrics: the name {name!r} is taken: val/{other} is measured anyway")
        self.metrics = dict(metrics)
        self._shares: list[tuple[Rollouts, list[str]]] = []
        self._columns: set[str] = set()  # these have had a value before

    def update(self, rollouts: Rollouts, texts: list[str]) -> None:
        """Add the responses of this rank, one to each prompt."""
        if self.metrics:
            self._shares.append((rollouts, texts))

    def result(self) -> dict[str, float]:
        """Return all measures of what any rank has added since the last call, on all ranks, which all call it."""
        if not self.metrics:
            return {}
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world_size = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if several else (0, 1)
        shares, self._shares = from_all_ranks(self._shares, world_size), []
        added = [share for of_rank in shares for share in of_rank]
        if not added:
            return {}
        return from_all_ranks(self._measured(*_as_one(added)) if rank == 0 else {}, world_size)[0]

    def _measured(self, rollouts: Rollouts, texts: list[str]) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, metric in self.metrics.items():
            try:
                with directory_kept():  # and on a copy: the rows are those that judges see later
                    said = metric(deepcopy(rollouts), list(texts))
                columns = {f"{name}_{key}": x for key, x in said.items()} if isinstance(said, Mapping) else {name: said}
                numbers = {column: _number(value, column) for column, value in columns.items()}
                if twice := sorted(numbers.keys() & found.keys()):
                    raise ValueError(f"val/{twice[0]} is another metric's column")
            except Exception as error:  # the user's code may raise anything, and the run has to go on
                log.warning("model.metrics.%s has no value: %s: %s", name, type(error).__name__, error)
            else:
                found |= numbers
        self._columns |= found.keys()
        # A column that had a value before is nan: loggers would repeat that value.
        return dict.fromkeys(self._columns, math.nan) | found


def _as_one(shares: list[tuple[Rollouts, list[str]]]) -> tuple[Rollouts, list[str]]:
    """Return the responses of several ranks as those of one, in the order in which their prompts were dealt."""
    order = order_of_shares([len(texts) for _, texts in shares])
    texts = [text for _, some in shares for text in some]
    return interleaved([rollouts for rollouts, _ in shares]).trim(), [texts[place] for place in order]


def _number(value: Any, column: str) -> float:
    """Return a finite number as a float, whatever library it is from, and raise for anything else."""
    if isinstance(value, str | bytes):
        raise TypeError(f"{column} is a text, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{column} is {number}, which is no finite number")
    return number
