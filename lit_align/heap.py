"""Freed memory that the C library keeps for itself: handed back at once where it is large, else between stages.

What one stage has freed lies in pieces that the next cannot use, and a large tensor leaves a hole that a larger one
does not fit into: without this a process on a CPU grows to the sum of what its stages need, or twice the most.
"""

import ctypes
from collections.abc import Callable
from functools import cache

_LARGE = 4 * 2**20  # bytes: 64 KiB cost a third more time; 32 MiB, which glibc comes to by itself, twice the memory
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def keep_large_apart() -> None:
    """Let every large tensor on a CPU have pages of its own, which are the system's again once it is freed."""
    option = _of_glibc("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Hand what is free to the system; nothing happens where the C library is not glibc."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


@cache
def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        library = ctypes.CDLL(None)
        _ = library.malloc_trim  # others have a mallopt of another meaning
        function: Callable[..., int] = getattr(library, name)
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    return function
