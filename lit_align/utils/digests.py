"""Short names of weights, files and texts: 16 hexadecimal digits, equal where what they name is the same."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLES, _SAMPLE = 32, 4096  # bytes looked at in a file of weights, evenly spaced


def weights_digest(weights: Iterable[tuple[str, Any]], *, at_once: int = 2**22) -> str:
    """Of tensors, on whatever device they are, in one pass over them.

    A sum of the elements' bits with odd factors modulo 2^64: no change of a single element leaves it as it was. Of a
    sharded tensor this rank's shard counts.

    Args:
        weights: Names and tensors; their order matters.
        at_once: Elements that are looked at together, >= 1; bounds the memory beside the weights, changes nothing else.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        own = weight.to_local() if isinstance(weight, torch.distributed.tensor.DTensor) else weight
        total = _total(own, at_once)
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {total};".encode())
    return digest.hexdigest()[:16]


def text_digest(*texts: str) -> str:
    """Of texts, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()[:16]


def folder_digest(folder: Path) -> str:
    """Of the weights and the configuration in a folder, without reading all of them.

    Size, beginning and evenly spaced samples of each file count: enough to tell fine-tuned weights from what they were.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("config.json")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size};".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def _total(weight: Tensor, at_once: int) -> int:
    flat = weight.detach().contiguous().view(-1)
    bits = flat.view(_INTEGERS[flat.element_size()])
    total = 0
    for start in range(0, len(bits), at_once):
        part = bits[start : start + at_once].to(torch.int64)
        factors = torch.arange(2 * start + 1, 2 * (start + len(part)), 2, device=part.device)
        total += int((part * factors).sum())  # int64 arithmetic wraps identically everywhere
    return total & (2**64 - 1)
