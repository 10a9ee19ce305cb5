"""A checkpoint holds every weight of the network it is loaded into, and none besides; else it is refused.

Libraries fill what a checkpoint lacks with random numbers, and drop what a network has no place for, with a warning at
most: a reward model whose head has another name would judge by chance.
"""

from collections.abc import Iterable
from typing import Any

import torch

_BUFFERS = ("inv_freq", "masked_bias", "position_ids", ".attn.bias", ".attention.bias")
"""Ends of names that old checkpoints have beside the weights: the model computes these itself."""


def load_whole(kind: Any, path: str, setting: str, name: str | None = None, **options: Any) -> Any:
    """Return a model of transformers with all of its weights from a checkpoint.

    Args:
        kind: The class that loads it, such as ``AutoModelForCausalLM``.
        path: Hub id or local folder.
        setting: What names it in a config, for the message.
        name: What the user calls it, for the message; the path by default.
        options: As for ``from_pretrained``.

    Raises:
        ValueError: The files are damaged; or the checkpoint lacks a weight, has one of another shape, or one that the
            network has no place for.
    """
    checkpoint = path if name is None else name
    try:
        model, found = kind.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # every format has errors of its own
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"{setting}: {checkpoint} does not load: {type(error).__name__}: {said}") from error
    network = type(model).__name__
    unexpected = [key for key in found["unexpected_keys"] if not key.endswith(_BUFFERS)]
    if found["mismatched_keys"]:
        weight, theirs, ours = min(found["mismatched_keys"])
        raise ValueError(
            f"{setting}: {weight} of {checkpoint} has the shape {tuple(theirs)}, and {network} as its config says "
            f"needs {tuple(ours)}: config and weights are of two models"
        )
    if found["missing_keys"]:
        besides = f", and has {_some(unexpected)} in its place" if unexpected else ""
        raise ValueError(
            f"{setting}: {checkpoint} lacks {_some(found['missing_keys'])} of {network}{besides}: what is missing "
            "would be random numbers"
        )
    if unexpected:
        raise ValueError(f"{setting}: {checkpoint} has {_some(unexpected)}, which {network} has no place for")
    return model


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
