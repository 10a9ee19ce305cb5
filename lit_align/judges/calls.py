"""A judge's function is called here: what it returns is checked, and what it raises names the judge and the sample."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from lit_align.judges.patience import Faults, JudgeError, Patience, retry_in_parts
from lit_align.utils.out_of_memory import OutOfMemory
from lit_align.utils.user_functions import directory_kept

_LARGEST = 3.4028234e38  # rewards are kept in float32: a larger one would be infinite there


def call_judge(
    name: str,
    function: Callable[..., Any],
    columns: Sequence[list[Any]],
    *,
    low: float = -math.inf,
    high: float = math.inf,
    missing: bool = False,
    patience: Patience | None = None,
    faults: Faults | None = None,
) -> list[float]:
    """Call a judge on a batch and check what it returns.

    Args:
        name: The judge, for messages.
        function: Takes the columns, returns one number a row.
        columns: Lists of equal length; the first is the prompt, the second a response.
        low: Smallest value allowed.
        high: Largest value allowed.
        missing: Whether the function may return nan, where a value is missing.
        patience: Patience with a judge that may fail for a while; None takes any error for one of its code.
        faults: Earlier failures and answers of the judge, to which those of this call are added.

    Returns:
        One number a row; with patience, nan where the judge failed to the last retry.

    Raises:
        JudgeError: The judge raised an error of its code, or has failed on every sample since it was first asked; it
            returned another number of values, or one that is not finite or out of range. The message names judge and
            sample.
    """
    faults = faults or Faults()
    once = patience or Patience()
    function = _on_copies(function)

    def ask(some: Sequence[list[Any]]) -> list[float]:
        return _checked(name, once.call(function, some), some, low, high, missing)

    try:
        values = ask(columns) if patience is None else retry_in_parts(ask, columns, patience, faults)
    except (JudgeError, OutOfMemory):
        raise
    except Exception as error:
        row = _first_raising(function, columns)
        where = "on the whole batch, though on no sample alone" if row is None else f"on {_sample(columns, row)}"
        raise JudgeError(f"judge {name} raised {type(error).__name__}: {error} ({where})") from error
    if faults.reason and not faults.answered:
        raise JudgeError(f"judge {name} failed on every sample, to the last retry: {faults.take()}")
    return values


def in_order(values: Any) -> list[Any]:
    """Return the values that a judge has given, as a list; a set, a mapping or a text raises a ``TypeError``."""
    if isinstance(values, dict | set | frozenset | str):
        raise TypeError(f"it returned a {type(values).__name__}: it must return a list, with one number a sample")
    return list(values)


def _on_copies(function: Callable[..., Any]) -> Callable[..., list[Any]]:
    """Let a function change what it is given, rows that stand for several responses too, without any effect."""

    def call(*columns: list[Any]) -> list[Any]:
        with directory_kept():
            return in_order(function(*([deepcopy(value) for value in column] for column in columns)))

    return call


def _checked(
    name: str, values: list[Any], columns: Sequence[list[Any]], low: float, high: float, missing: bool
) -> list[float]:
    rows = len(columns[0])
    if len(values) != rows:
        raise JudgeError(f"judge {name} returned {len(values)} values for {rows} samples: it must return one for each")
    for row, value in enumerate(values):
        number = _number(value)
        if number is None:
            raise JudgeError(f"judge {name} returned {value!r}, not a number, on {_sample(columns, row)}")
        if missing and math.isnan(number):
            continue
        if not (abs(number) <= _LARGEST and low <= number <= high):
            expected = "a number that float32 holds" if math.isfinite(number) else "a finite number"
            expected = expected if math.isinf(low) else f"a number in [{low:g}, {high:g}]"
            raise JudgeError(f"judge {name} returned {number}, not {expected}, on {_sample(columns, row)}")
    return [float(value) for value in values]


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _first_raising(function: Callable[..., Any], columns: Sequence[list[Any]]) -> int | None:
    for row in range(len(columns[0])):
        try:
            function(*[column[row : row + 1] for column in columns])
        except Exception:
            return row
    return None


def _sample(columns: Sequence[list[Any]], row: int) -> str:
    prompt, response = columns[0][row], columns[1][row]
    return f"sample {row}: prompt {_short(prompt)}, response {_short(response)}"


def _short(text: object, limit: int = 80) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
