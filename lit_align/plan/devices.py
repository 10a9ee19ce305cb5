"""A run has devices: how many, what each can hold, and whether they share the weights between them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

GIB = 2**30


@dataclass(frozen=True)
class Devices:
    """Says where a run takes place."""

    kind: str  # ``cpu`` or ``cuda``, for example
    count: int = 1  # number over all nodes
    sharded: bool = False  # whether each keeps a part of the weights only (FSDP); else each has them all
    flat: bool = False  # whether that is FSDP1, which gathers weights in the dtype they are kept in
    # Bytes that one device can hold, its share of the RAM for a CPU; None where nobody knows.
    memory: float | None = None
    precision: str = "32-true"  # the trainer's

    @property
    def shards(self) -> int:
        """Return the number of parts that the weights are cut into."""
        return self.count if self.sharded else 1


def devices_of(trainer: Any) -> Devices:
    """Return the devices of a trainer."""
    root: torch.device = trainer.strategy.root_device
    return Devices(
        root.type,
        int(trainer.world_size),
        isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy),
        isinstance(trainer.strategy, FSDPStrategy),
        _memory(root.type, int(trainer.num_devices)),
        str(trainer.precision),
    )


def configured_devices(options: Mapping[str, Any], memory: float | None = None) -> Devices:
    """Return the devices that a trainer with these options would be given, whether this machine has them or not.

    ``memory`` is GiB of one device, for those that are not here.
    """
    kind = str(options.get("accelerator", "auto"))
    if kind in ("auto", "gpu", "cuda"):
        kind = "cuda" if kind != "auto" or torch.cuda.is_available() else "cpu"
    local = _count(options.get("devices", "auto"), kind)
    strategy = options.get("strategy", "auto")
    flat = isinstance(strategy, FSDPStrategy) or str(strategy).startswith("fsdp")
    known = memory * GIB if memory is not None else _memory(kind, local)
    nodes = int(options.get("num_nodes") or 1)
    sharded = flat or isinstance(strategy, ModelParallelStrategy)
    return Devices(kind, local * nodes, sharded, flat, known, str(options.get("precision") or "32-true"))


def _count(asked: Any, kind: str) -> int:
    if isinstance(asked, list):
        return len(asked)
    if str(asked) in ("auto", "-1"):
        return max(1, torch.cuda.device_count()) if kind == "cuda" else 1
    return len(str(asked).split(",")) if "," in str(asked) else int(asked)


def _memory(kind: str, local: int) -> float | None:
    if kind == "cpu":
        return _ram() / local
    if kind == "cuda" and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return None


def _ram() -> float:
    """Return the RAM of this machine, or of the container that the process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")]
    said = [int(text) for path in limits if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return float(min([physical, *said]))
