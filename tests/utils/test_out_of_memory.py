"""What does not fit is halved, once, for the rest of the run, and does not change; what is freed is the system's."""

import ctypes
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lit_align.iteration import stages
from lit_align.iteration.stages import Stages
from lit_align.utils.out_of_memory import Halving, OutOfMemory, give_back, is_out_of_memory, keep_large_apart

ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


def test_a_real_error_of_the_machines_allocator_is_one_of_memory():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


class Narrow:
    """Squares of row numbers, for so many rows at once and no more; remembers what it was given."""

    def __init__(self, room, error=ERRORS[0]):
        self.room, self.error = room, error
        self.tried: list[int] = []

    def __call__(self, rows):
        self.tried.append(len(rows))
        if len(rows) > self.room:
            raise self.error
        return [row**2 for row in rows]


def squares(halving, batches, work):
    parts = list(halving.each(batches, work))
    assert all(values == [row**2 for row in rows] for rows, values in parts)
    return [row for rows, _ in parts for row in rows]


def halving() -> Halving:
    return Halving("sampling", "prompt", "lower the group size")


@pytest.mark.parametrize("room", [1, 2, 3, 5, 8])
def test_every_row_comes_back_in_order_whatever_the_room(room):
    assert squares(halving(), [[4, 2, 0, 1, 3], [5, 6, 7]], Narrow(room)) == [4, 2, 0, 1, 3, 5, 6, 7]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_every_error_of_memory_halves(error):
    work = Narrow(1, error)
    assert squares(halving(), [[0, 1]], work) == [0, 1]
    assert work.tried == [2, 1, 1]


def test_nothing_is_halved_that_fits():
    work = Narrow(5)
    squares(halving(), [[0, 1, 2, 3, 4], [5, 6]], work)
    assert work.tried == [5, 2]


def test_a_failure_halves_what_waits_too_and_whatever_comes_later():
    some, work = halving(), Narrow(2)
    squares(some, [list(range(8)), list(range(8, 16))], work)
    assert work.tried == [8, 4, *[2] * 8]
    squares(some, [list(range(8))], work)
    assert work.tried[10:] == [2, 2, 2, 2]


def test_it_is_said_once_with_what_fits_in_the_end(caplog):
    some = halving()
    with caplog.at_level(logging.WARNING):
        squares(some, [list(range(8))], Narrow(2))
        squares(some, [list(range(8))], Narrow(2))
    assert caplog.messages == ["out of memory sampling: going on with 2 prompts at a time"]


def test_a_row_that_does_not_fit_alone_is_one_line_with_advice():
    with pytest.raises(OutOfMemory, match=r"^out of memory sampling a single prompt: lower the group size$"):
        squares(halving(), [[0, 1, 2]], Narrow(0))


def test_another_error_is_not_taken_for_one_of_memory():
    for error in (RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("x")):
        assert not is_out_of_memory(error)
        work = Narrow(1, error)
        with pytest.raises(type(error)):
            squares(halving(), [[0, 1]], work)
        assert work.tried == [2]


def test_the_error_is_gone_before_the_next_try_so_that_what_it_held_is_free():
    import gc
    import weakref

    class Held:
        pass

    alive: list[weakref.ref] = []

    def work(rows):
        assert not [ref for ref in alive if ref() is not None]
        held = Held()
        alive.append(weakref.ref(held))
        if len(rows) > 1:
            raise torch.OutOfMemoryError(f"CUDA out of memory holding {held}")
        return [row**2 for row in rows]

    gc.disable()
    try:
        squares(halving(), [[0, 1, 2, 3]], work)
    finally:
        gc.enable()
    assert len(alive) > 4


def resident():
    """MiB of this process in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


def litter(pieces=128):
    """Freed pieces with others between them that stay: MiB that the C library keeps."""
    kept = [torch.ones(2**18 if i % 2 else 2**6) for i in range(2 * pieces)]
    return kept[::2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_tensors_leave_no_holes():
    for _ in range(2):
        torch.ones(2**22)  # what is freed, glibc takes for common, and keeps its like on the heap from then on
    keep_large_apart()
    before = resident()
    pieces = [torch.ones(2**21) for _ in range(32)]
    kept = pieces[::2]
    del pieces
    assert resident() < before + sum(piece.nbytes for piece in kept) // 2**20 + 32


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_long_stage_leaves_no_freed_memory_behind():
    before = resident()
    with Stages(visible=False, long=0.0).stage("sample", 1):
        small = litter()
    assert small
    assert resident() < before + 64


def test_a_short_stage_is_not_kept_waiting(monkeypatch):
    called = []
    monkeypatch.setattr(stages, "give_back", lambda: called.append(1))
    with Stages(visible=False).stage("sample", 1):
        pass
    assert not called
    with pytest.raises(KeyError), Stages(visible=False, long=0.0).stage("sample", 1):
        raise KeyError
    assert called == [1]


def test_another_c_library_is_left_alone(monkeypatch):
    called = []
    other = SimpleNamespace(mallopt=lambda *options: called.append(options))  # of another meaning, and no malloc_trim
    monkeypatch.setattr(ctypes, "CDLL", lambda name: other)
    give_back()
    keep_large_apart()
    assert not called
