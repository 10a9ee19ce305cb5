"""Adapters go on the modules that were asked for, in the layers that were asked for, and on no others.

In a model of images and text, they go on the language tower and its head alone.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from lit_align.compat import decoder_layers

ALL_LINEAR = "all-linear"
"""This target stands for every linear layer but the head."""

Modules = dict[str, nn.Module]


def adapter_targets(model: Any, targets: str | list[str], layers: list[int] | None) -> list[str]:
    """Return the names of the modules that get adapters.

    Args:
        model: A causal LM of transformers.
        targets: Last parts of module names, a regular expression for whole names, or ``all-linear``.
        layers: Indices of the decoder layers that they have to lie in; None looks everywhere.

    Raises:
        ValueError: There is no such module or layer, or it takes no adapter.
    """
    head = model.get_output_embeddings()
    reading = _reading(model, head)
    found = reading if layers is None else _inside(reading, _chosen_layers(model, reading, layers))
    where = "the model" if layers is None else f"layers {layers}"
    if not isinstance(targets, str):
        each = [_called(found, target, where) for target in targets]
        return list(dict.fromkeys(name for names in each for name in names))
    if targets.lower() == ALL_LINEAR:
        return [name for name, module in found.items() if isinstance(module, _linear()) and module is not head]
    return _called(found, targets, where, whole=True)


def shortest_names(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Return the last parts of some modules' names where no other module has them, else the whole names."""
    whole = set(names)
    short = {_last(name) for name in whole}
    same = {name for name, _ in model.named_modules() if _last(name) in short}
    return sorted(short if same == whole else whole)


def _reading(model: Any, head: nn.Module | None) -> Modules:
    """Return the modules of the language tower, or all where there are no images, and the head."""
    modules = {name: module for name, module in model.named_modules() if name}
    decoder = model if model.config.get_text_config() is model.config else model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    return {name: module for name, module in modules.items() if id(module) in inside or module is head}


def _chosen_layers(model: Any, reading: Modules, layers: list[int]) -> list[str]:
    """Return the names of some decoder layers, each by its place in the stack."""
    blocks = {id(block) for block in decoder_layers(model)}
    names: list[str] = []
    for name, module in reading.items():
        if id(module) in blocks and not name.startswith(tuple(f"{outer}." for outer in names)):
            names.append(name)
    for layer in layers:
        if not 0 <= layer < len(names):
            there = f"its layers are 0 to {len(names) - 1}" if names else "transformers tells none of its layers apart"
            raise ValueError(f"model.policy.lora.layers: the model has no layer {layer}: {there}")
    return [names[layer] for layer in layers]


def _inside(modules: Modules, outer: list[str]) -> Modules:
    starts = tuple(f"{name}." for name in outer)
    return {name: module for name, module in modules.items() if name.startswith(starts)}


def _called(modules: Modules, target: str, where: str, *, whole: bool = False) -> list[str]:
    """Return the modules that a target names, by the last parts of their names or by a pattern for whole names."""
    pattern = target if whole else rf"(.*\.)?{re.escape(target)}"
    try:
        names = [name for name in modules if re.fullmatch(pattern, name)]
    except re.error as error:
        raise ValueError(f"model.policy.lora.target_modules: {target!r} is no regular expression ({error})") from error
    fit = (*_linear(), nn.Embedding)
    if not names:
        there = sorted({_last(name) for name, module in modules.items() if isinstance(module, fit)})
        asked = f"the pattern {target!r}" if whole else repr(target)
        raise ValueError(
            f"model.policy.lora.target_modules: nothing in {where} is called {asked}; adapters can go on "
            + ", ".join(there)
        )
    for name in names:
        if not isinstance(modules[name], fit):
            raise ValueError(
                f"model.policy.lora.target_modules: {name} is a {type(modules[name]).__name__}, and adapters go on "
                "linear layers and embeddings"
            )
    return names


def _linear() -> tuple[type[nn.Module], ...]:
    from transformers.pytorch_utils import Conv1D

    return nn.Linear, Conv1D


def _last(name: str) -> str:
    return name.rpartition(".")[2]
