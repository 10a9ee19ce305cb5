"""A checkpoint holds every weight of the network it is loaded into, and none besides; else it is refused.

Libraries fill what a checkpoint lacks with random numbers, and drop what a network has no place for, with a warning at
most: a reward model whose head has another name would judge by chance.
"""

from collections.abc import Iterable
from typing import Any


def load_whole(kind: Any, path: str, setting: str, **options: Any) -> Any:
    """A model of transformers with all of its weights from a checkpoint.

    Args:
        kind: The class that loads it, such as ``AutoModelForCausalLM``.
        path: Hub id or local folder.
        setting: What names it in a config, for the message.
        options: As for ``from_pretrained``.

    Raises:
        ValueError: The checkpoint lacks a weight, has one of another shape, or one that the network has no place for.
    """
    model, found = kind.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
    name = type(model).__name__
    if found["mismatched_keys"]:
        weight, theirs, ours = min(found["mismatched_keys"])
        raise ValueError(
            f"{setting}: {weight} of {path} has the shape {tuple(theirs)}, and {name} as its config says needs "
            f"{tuple(ours)}: config and weights are of two models"
        )
    if found["missing_keys"]:
        besides = f", and has {_some(found['unexpected_keys'])} in its place" if found["unexpected_keys"] else ""
        raise ValueError(
            f"{setting}: {path} lacks {_some(found['missing_keys'])} of {name}{besides}: what is missing would be "
            "random numbers"
        )
    if found["unexpected_keys"]:
        raise ValueError(f"{setting}: {path} has {_some(found['unexpected_keys'])}, which {name} has no place for")
    return model


def _some(names: Iterable[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
