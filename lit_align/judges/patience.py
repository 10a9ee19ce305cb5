"""What is done when a judge fails: it is asked again, then about fewer at a time; what it still fails on is missing.

The error decides. One that the judge's own code makes (`CODE_ERRORS`: a wrong type, a key that is not there, a module
that cannot be imported) would be made again, and is told at once with the sample. Any other (a timeout, a lost
connection, whatever a client library raises) may pass.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any

import torch

from lit_align.utils.out_of_memory import OutOfMemory

log = logging.getLogger(__name__)


class JudgeError(RuntimeError):
    """A judge raised, or returned something that is no judgement."""


CODE_ERRORS = (
    JudgeError,
    OutOfMemory,
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    SyntaxError,
    NotImplementedError,
    RecursionError,
    FileNotFoundError,
    PermissionError,
)
"""Errors that asking again does not mend."""

_LONGEST_WAIT = 60.0
_HOPELESS = 8  # samples in a row that fail alone, to the last retry: the judge is down, not the samples odd
_GOLDEN = 0.6180339887498949

Ask = Callable[[Sequence[list[Any]]], list[float]]
"""One number a row of the columns."""


@dataclass(frozen=True)
class Patience:
    """How often and how long a judge is waited for.

    Attributes:
        max_retries: Times a call is made again after an error that may pass, >= 0.
        backoff: Seconds before the first retry, doubled before each further one up to a minute, > 0.
        timeout: Seconds after which a call has failed, > 0; None waits for ever. A call that is over its time cannot be
            stopped: its thread is abandoned and what it may still return is dropped.

    Raises:
        ValueError: A value is out of its range.
    """

    max_retries: int = 2
    backoff: float = 1.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
        if self.max_retries < 0:
            raise ValueError(f"judge.max_retries must be >= 0, got {self.max_retries}")
        for name, value in (("backoff", self.backoff), ("timeout", self.timeout)):
            if value is not None and value <= 0:
                raise ValueError(f"judge.{name} must be > 0, got {value}")

    def call(self, function: Callable[..., Any], columns: Sequence[list[Any]]) -> list[Any]:
        """What a function returns in time, as a list."""
        return list(function(*columns)) if self.timeout is None else in_time(function, columns, self.timeout)

    def insist(self, ask: Ask, columns: Sequence[list[Any]]) -> list[float]:
        """Ask; after an error that may pass, wait and ask again."""
        for attempt in range(self.max_retries):
            try:
                return ask(columns)
            except CODE_ERRORS:
                raise
            except Exception as error:
                wait = min(self.backoff * 2**attempt, _LONGEST_WAIT)
                log.info("a judge failed (%s: %s); again in %g s", type(error).__name__, error, wait)
            time.sleep(wait)
        return ask(columns)

    @property
    def once(self) -> "Patience":
        """The same without a second try."""
        return replace(self, max_retries=0)


@dataclass
class Faults:
    """What a judge has failed on: why comparisons are missing, and whether asking on has a point.

    Attributes:
        reason: The first failure since it was last taken; empty where there was none.
        answered: Whether the judge has ever judged anything.
        down: Whether the last samples it was asked about all failed.
    """

    reason: str = ""
    answered: bool = False
    down: bool = False

    def note(self, reason: str) -> None:
        """A failure."""
        self.reason = self.reason or reason

    def succeeded(self) -> None:
        """An answer."""
        self.answered, self.down = True, False

    def take(self) -> str:
        """The first failure, forgotten from here on."""
        reason, self.reason = self.reason, ""
        return reason


def ask_patiently(ask: Ask, columns: Sequence[list[Any]], patience: Patience, faults: Faults) -> list[float]:
    """Answers to all rows; nan where there is none to be had.

    All rows are asked about at once, and again after a wait. Then fewer: half as many after each failure, twice as many
    after each success, so that a few rows that always fail cost a few calls. A row that fails alone, to the last retry,
    is missing; after too many such rows in a row the rest is missing too.

    Args:
        ask: Raises what the judge raises.
        columns: Lists of equal length.
        patience: Of the calls for all rows and for a row alone.
        faults: Told of failures and answers.
    """
    rows = len(columns[0])
    values = [math.nan] * rows
    # Neighbours, such as the responses to one prompt, fail together: far apart, they do not look like a judge that is
    # down. Multiples of the golden ratio, modulo 1, leave no large gap.
    left = sorted(range(rows), key=lambda row: row * _GOLDEN % 1)
    size, lost = rows, 0
    while left:
        some = sorted(left[:size])
        tries = patience if size in (1, rows) else patience.once
        try:
            answers = tries.insist(ask, [[column[row] for row in some] for column in columns])
        except CODE_ERRORS:
            raise
        except Exception as error:
            faults.note(f"{type(error).__name__}: {error}")
            if faults.down and size == rows:
                break
            if size == 1:
                left, lost = left[1:], lost + 1
                if lost == _HOPELESS:
                    faults.down = True
                    break
            size = max(1, size // 2)
            continue
        for row, answer in zip(some, answers, strict=True):
            values[row] = answer
        if not all(math.isnan(answer) for answer in answers):
            faults.succeeded()
        left, size, lost = left[size:], 2 * size, 0
    return values


def in_time(function: Callable[..., Any], columns: Sequence[list[Any]], seconds: float) -> list[Any]:
    """What a function returns, as a list, if it does so in time.

    It runs in a thread of its own, without gradients, that does not keep the process alive.

    Raises:
        TimeoutError: It did not.
    """
    answer: Future[list[Any]] = Future()

    def run() -> None:
        try:
            with torch.no_grad():  # gradients are on in a new thread
                answer.set_result(list(function(*columns)))
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=copy_context().run, args=(run,), daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():  # the function's own
            raise
        raise TimeoutError(f"no answer within {seconds:g} s") from None
