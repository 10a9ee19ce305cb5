"""A judge that fails is retried, then asked in parts; what it still fails on is missing.

The error decides. One that the judge's own code makes (`CODE_ERRORS`: a wrong type, a key that is not there, a module
that cannot be imported) would be made by a retry too, and is raised at once with the sample. Any other (a timeout, a
lost connection, whatever a client library raises) may pass.
"""

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, TypeVar

import tenacity
import torch

from lit_align.utils.arguments import check_finite
from lit_align.utils.out_of_memory import OutOfMemory

log = logging.getLogger(__name__)

T = TypeVar("T")


class JudgeError(RuntimeError):
    """Says that a judge raised, or returned something that is no judgement."""


class MayPass(Exception):
    """Says that a server failed, and when to retry.

    Args:
        reason: What has failed.
        retry_after: Seconds that the server asks to be left alone; None where it asks for nothing.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


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
"""A retry does not mend these errors."""

_LONGEST_WAIT = 60.0
_HOPELESS = 8  # when so many samples in a row fail alone, to the last retry, the judge is down
_GOLDEN = 0.6180339887498949

Ask = Callable[[Sequence[list[Any]]], list[float]]
"""It returns one number for each row of the columns."""


def may_pass(error: BaseException) -> bool:
    """Say whether a retry may succeed: it cannot after an error of the judge's code, nor after Ctrl-C."""
    return isinstance(error, Exception) and not isinstance(error, CODE_ERRORS)


@dataclass(frozen=True)
class Patience:
    """Holds the one rule of retrying: how often, after what wait, and how long a call may take.

    Attributes:
        max_retries: Times a call is retried after an error that may pass, >= 0.
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
        check_finite("model.judge", vars(self))
        if self.max_retries < 0:
            raise ValueError(f"judge.max_retries must be >= 0, got {self.max_retries}")
        for name, value in (("backoff", self.backoff), ("timeout", self.timeout)):
            if value is not None and value <= 0:
                raise ValueError(f"judge.{name} must be > 0, got {value}")

    def retrying(
        self, function: Callable[..., Any], may_pass: Callable[[BaseException], bool] = may_pass
    ) -> Callable[..., Any]:
        """Return a function, or a coroutine function, that is retried while errors may pass; it raises the last."""
        retried: Callable[..., Any] = tenacity.retry(
            stop=tenacity.stop_after_attempt(self.max_retries + 1),
            wait=self._wait,
            retry=tenacity.retry_if_exception(may_pass),
            before_sleep=_tell,
            reraise=True,
        )(function)
        return retried

    def call(self, function: Callable[..., Any], columns: Sequence[list[Any]]) -> list[Any]:
        """Return what a function returns in time, as a list."""
        if self.timeout is None:
            return list(function(*columns))
        return in_thread(lambda: list(function(*columns)), self.timeout)

    @property
    def without_retries(self) -> "Patience":
        """Return the same patience without retries."""
        return replace(self, max_retries=0)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, MayPass) and error.retry_after is not None:
            return min(error.retry_after, _LONGEST_WAIT)
        return tenacity.wait_exponential(self.backoff, max=_LONGEST_WAIT)(state)


def _tell(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.info("a judge failed (%s: %s); retried in %g s", type(error).__name__, error, state.upcoming_sleep)


@dataclass
class Faults:
    """Records what a judge has failed on: why comparisons are missing, and whether asking on has a point.

    Attributes:
        reason: The first failure since it was last taken; empty where there was none.
        answered: Whether the judge has ever judged anything.
        down: Whether the last samples it was asked about all failed.
    """

    reason: str = ""
    answered: bool = False
    down: bool = False

    def note(self, reason: str) -> None:
        """Note a failure."""
        self.reason = self.reason or reason

    def succeeded(self) -> None:
        """Note an answer."""
        self.answered, self.down = True, False

    def take(self) -> str:
        """Return the first failure, and forget it."""
        reason, self.reason = self.reason, ""
        return reason


def retry_in_parts(ask: Ask, columns: Sequence[list[Any]], patience: Patience, faults: Faults) -> list[float]:
    """Return the answers to all rows; nan where there is none to be had.

    All rows are asked about at once, with retries. Then fewer are, without retries: half as many after each failure,
    twice as many after each success, so that a few rows that always fail cost a few calls. A row alone is retried too;
    if it fails to the last retry, it is missing, and after too many such rows in a row the rest is missing too.

    Args:
        ask: Raises what the judge raises.
        columns: Lists of equal length.
        patience: Rule for the calls for all rows and for a row alone.
        faults: Record to which failures and answers are added.
    """
    rows = len(columns[0])
    values = [math.nan] * rows
    # Neighbours, such as the responses to one prompt, fail together: far apart, they do not look like a judge that is
    # down. Multiples of the golden ratio, modulo 1, leave no large gap.
    left = sorted(range(rows), key=lambda row: row * _GOLDEN % 1)
    size, lost = rows, 0
    while left:
        some = sorted(left[:size])
        law = patience if size in (1, rows) else patience.without_retries
        try:
            answers: list[float] = law.retrying(ask)([[column[row] for row in some] for column in columns])
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


def in_thread(function: Callable[[], T], timeout: float | None = None) -> T:
    """Return what a function returns, run in a thread without gradients that does not keep the process alive.

    Raises:
        TimeoutError: It took longer than ``timeout``, in seconds, > 0; None waits for ever.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            with torch.no_grad():  # gradients are on in a new thread
                answer.set_result(function())
        except BaseException as error:
            answer.set_exception(error)

    Thread(target=copy_context().run, args=(run,), daemon=True).start()
    try:
        return answer.result(timeout=timeout)
    except TimeoutError:
        if answer.done():  # the function raised it itself
            raise
        raise TimeoutError(f"no answer within {timeout:g} s") from None
