"""Work that runs out of memory is done in halves.

Only work without gradients is halved, where rows do not know of each other and the random numbers of each are its own:
what is drawn, scored or judged does not depend on the batch it was in.
"""

import ctypes
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error

log = logging.getLogger(__name__)

_OTHER_WORDS = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")

_T = TypeVar("_T")


class OutOfMemory(RuntimeError):
    """Says that what does not fit cannot be made smaller."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an accelerator, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or is_oom_error(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OTHER_WORDS)


class Halving:
    """Cuts micro-batches as small as memory asks for, and no larger again.

    Args:
        doing: What is done to them, for messages, such as ``sampling``.
        row: What a row is.
        advice: What to change where a single row does not fit.
    """

    def __init__(self, doing: str, row: str, advice: str) -> None:
        self.doing = doing
        self.row = row
        self.advice = advice
        self.parts = 1  # each micro-batch is cut into so many

    def each(
        self, batches: Iterable[Sequence[int]], work: Callable[[Sequence[int]], _T]
    ) -> Iterator[tuple[Sequence[int], _T]]:
        """Give every micro-batch, or every part of it, with what became of it, in order.

        Args:
            batches: Row numbers.
            work: Done to the rows; its results for all of them are those for parts of them.

        Raises:
            OutOfMemory: A row does not fit alone.
        """
        waiting = deque(part for batch in batches for part in _cut(batch, self.parts))
        asked = self.parts
        while waiting:
            rows = waiting.popleft()
            try:
                result = work(rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if len(rows) == 1:
                    raise OutOfMemory(f"out of memory {self.doing} a single {self.row}: {self.advice}") from error
            else:
                if self.parts != asked:
                    log.warning("out of memory %s: going on with %d %ss at a time", self.doing, len(rows), self.row)
                    asked = self.parts
                yield rows, result
                continue
            # Here the error is gone, and with it the frames that held what did not fit.
            self.parts *= 2
            waiting = deque(half for batch in (rows, *waiting) for half in _cut(batch, 2))
            garbage_collection_cuda()


def _cut(rows: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Return parts of nearly equal size, fewer where there are fewer rows."""
    size = -(-len(rows) // parts)
    return [rows[start : start + size] for start in range(0, len(rows), size)]


LARGE = 4 * 2**20  # bytes from which a tensor has pages of its own
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h


def keep_large_apart() -> None:
    """Let every large tensor on a CPU have pages of its own, which are the system's again once it is freed."""
    # Tensors of many sizes leave holes in the heap that others do not fit into, which can double what a process takes;
    # pages of their own have none, and have to be fetched anew each time, which can make a step a quarter longer.
    option = _of_glibc("mallopt")
    if option is not None:
        option(_MMAP_THRESHOLD, LARGE)


def give_back() -> None:
    """Hand what is free to the system; nothing happens where the C library is not glibc."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Callable[..., int] | None:
    try:
        library = ctypes.CDLL(None)
        _ = library.malloc_trim  # others have a mallopt of another meaning
        function: Callable[..., int] = getattr(library, name)
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return None
    return function
