"""Digests name weights, files and texts in 16 hexadecimal digits, equal where what they name is the same."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

WEIGHTS = ("*.safetensors", "*.bin", "config.json")
"""These patterns match the files of a model's folder that hold its weights and its configuration."""

_BESIDE_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja", "*.py")  # tokenizer, templates, code of its own
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SAMPLES, _SAMPLE = 32, 4096  # bytes looked at in a file of weights, evenly spaced


def weights_digest(weights: Iterable[tuple[str, Any]], *, at_once: int = 2**22) -> str:
    """Digest tensors, on whatever device they are, in one pass over them; of a sharded tensor this rank's shard counts.

    The order of ``weights`` matters. ``at_once`` bounds the elements that are looked at together, and so the memory.
    """
    digest = hashlib.sha256()
    for name, weight in weights:
        own = weight.to_local() if isinstance(weight, DTensor) else weight
        total = _total(own, at_once)
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype} {total};".encode())
    return digest.hexdigest()[:16]


def text_digest(*texts: str) -> str:
    """Digest texts, in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()[:16]


def bytes_digest(content: bytes) -> str:
    """Digest some bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def folder_digest(folder: Path, patterns: Sequence[str] = WEIGHTS) -> str:
    """Digest the files of a model's folder that match patterns, without reading all of them.

    Size, beginning and evenly spaced samples of each file count: enough to tell fine-tuned weights from what they were.
    """
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size};".encode())
        with path.open("rb") as file:
            for sample in range(_SAMPLES):
                file.seek(size * sample // _SAMPLES)
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()[:16]


def model_digest(name: str, revision: str | None = None) -> str:
    """Digest a model with its tokenizer and code: the files of a folder, or the commit of a hub id.

    ``revision`` is a branch, tag or commit of a hub id; None is the default branch.
    """
    folder = Path(name)
    return folder_digest(folder, (*WEIGHTS, *_BESIDE_WEIGHTS)) if folder.is_dir() else hub_commit(name, revision)


def hub_commit(name: str, revision: str | None) -> str:
    """Return the commit of the hub that a model is read from, as :func:`model_digest` names it."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, "config.json", revision=revision)).parent.name  # .../snapshots/COMMIT/config.json


def _total(weight: Tensor, at_once: int) -> int:
    # A sum of the bits with odd factors modulo 2^64: no change of a single element leaves it as it was.
    flat = weight.detach().contiguous().view(-1)
    bits = flat.view(_INTEGERS[flat.element_size()])
    total = 0
    for start in range(0, len(bits), at_once):
        part = bits[start : start + at_once].to(torch.int64)
        factors = torch.arange(2 * start + 1, 2 * (start + len(part)), 2, device=part.device)
        total += int((part * factors).sum())  # int64 arithmetic wraps identically everywhere
    return total & (2**64 - 1)
