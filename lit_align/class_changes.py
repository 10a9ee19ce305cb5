"""A setting whose class a later file or option changes keeps what both classes have in common, and tells so."""

import inspect
import sys
from abc import ABC
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any, Generic

from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_align.compat import on_class_change
from lit_align.utils.messages import arguments_of

_SETTINGS = {"AlignmentModule": "model", "IterationData": "data"}


@contextmanager
def own_settings_reset() -> Iterator[None]:
    """Let a class that changes, while a command line is parsed, take along only what is no affair of its own.

    What the common base of the old and the new class takes is kept: an algorithm's policy, judge and sampler, a data
    module's held-out prompts and batch size. What is a class's own starts at the new class's defaults, such as beta:
    numbers of one name have another meaning and another scale there. What was kept and dropped is printed.
    """
    lines: dict[str, None] = {}

    def tell(old: Any, new: Any, there: dict[str, Any], kept: Set[str]) -> None:
        dropped = [f"{name} {_shown(there[name])}" for name in there if name not in kept and there[name] is not None]
        if dropped or not _refines(new, old):
            taken = [name for name in there if name in kept]
            line = f"kept {', '.join(taken) or 'nothing'}; dropped {', '.join(dropped) or 'nothing'}"
            defaults = f"{_name(new)}'s own settings start at its defaults unless given"
            lines[f"{_setting(new)}: {_name(old)} -> {_name(new)}: {line} ({defaults})"] = None

    try:
        with on_class_change(shared, tell):
            yield
    finally:
        _print(list(lines))


def shared(old: Any, new: Any) -> Set[str]:
    """Return the names of the arguments that two classes have in common by design: those of their common base.

    There are none where no base of ours has arguments: an optimiser's and a judge's are its own. ``new`` may leave some
    to itself, as an algorithm with an anchor of its own does.
    """
    bases = [base for base in _bases(new) if base in _bases(old) and base.__module__.startswith("lit_align.")]
    init = bases[-1].__dict__.get("__init__") if bases else None
    return set() if init is None else inspect.signature(init).parameters.keys() & arguments_of(new)


@rank_zero_only
def _print(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _bases(kind: Any) -> list[type]:
    """Return a class and its bases that say something, the most general last; none of a function."""
    return [base for base in inspect.getmro(kind) if base not in (object, ABC, Generic)] if _is_class(kind) else []


def _refines(new: Any, old: Any) -> bool:
    """Return whether the old class is the general one that a setting has before anybody says so."""
    return _is_class(new) and _is_class(old) and issubclass(new, old)


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type)


def _setting(kind: Any) -> str:
    """Return what a class is for: ``model``, ``data``, ``judge``, ``optimizer``."""
    names = [base.__name__ for base in _bases(kind)]
    ours = [base.__name__ for base in _bases(kind) if base.__module__.startswith("lit_align.")]
    general = (ours or names or ["class"])[-1]
    return _SETTINGS.get(general, general.lower())


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _shown(value: Any) -> str:
    text = str(value.as_dict() if isinstance(value, Namespace) else value)
    return text if len(text) <= 40 else f"{text[:36]} ..."
