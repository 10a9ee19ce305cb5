"""What a stage has freed is the system's again."""

import sys
from pathlib import Path

import pytest
import torch

from lit_align.iteration import stages
from lit_align.iteration.stages import Stages
from lit_align.utils.out_of_memory import give_back, keep_large_apart


def resident():
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
def test_a_long_stage_leaves_no_freed_memory_behind(monkeypatch):
    monkeypatch.setattr(stages, "_LONG", 0.0)
    before = resident()
    with Stages(visible=False).stage("sample", 1):
        small = litter()
    assert small
    assert resident() < before + 64


def test_a_short_stage_is_not_kept_waiting(monkeypatch):
    called = []
    monkeypatch.setattr(stages, "give_back", lambda: called.append(1))
    with Stages(visible=False).stage("sample", 1):
        pass
    assert not called
    monkeypatch.setattr(stages, "_LONG", 0.0)
    with pytest.raises(KeyError), Stages(visible=False).stage("sample", 1):
        raise KeyError
    assert called == [1]


def test_another_c_library_is_left_alone(monkeypatch):
    import ctypes

    from lit_align.utils import out_of_memory as heap

    heap._of_glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    give_back()
    keep_large_apart()
    heap._of_glibc.cache_clear()
