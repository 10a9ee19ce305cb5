"""Freed memory that the C library keeps for itself: handed back between the stages of an iteration.

What sampling has freed lies in pieces that training cannot use, and the other way round: without this a process on a
CPU grows to the sum of what its stages need, with it to the largest.
"""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Hand what is free to the system; nothing happens where the C library is not glibc."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    return trim
