"""Freed memory that the C library keeps for itself: handed back between stages, and at once where memory is short.

What one stage has freed lies in pieces that the next cannot use: without this a process on a CPU grows to the sum of
what its stages need, with it to the largest.
"""

import ctypes
from collections.abc import Callable
from functools import cache

_LARGE = 4 * 2**20  # bytes
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def keep_large_apart() -> None:
    """Let every large tensor on a CPU have pages of its own, which are the system's again once it is freed.

    Tensors of many sizes leave holes in the heap that others do not fit into, which can double what a process takes;
    pages of their own have none, and have to be fetched anew each time, which can make a step a quarter longer.
    """
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
