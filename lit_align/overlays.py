"""How configs are laid over one another: which come first, what a setting keeps when its class changes, what is missing.

``-c A -c B --model.beta 1``: what B says wins over A, and what is typed wins over both, wherever it stands.
"""

import inspect
import shlex
import sys
from abc import ABC
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.rank_zero import rank_zero_only

from lit_align.compat import class_changes

_FILE = ("-c", "--config")
_SETTINGS = {"AlignmentModule": "model", "IterationData": "data"}
_NEEDED = {"PairData": ("data.train",), "Replay": ("data.path",)}
"""What trains on given responses needs no judge; all else needs prompts and one."""


# ---------------------------------------------------------------------- when the class of a setting changes


@contextmanager
def own_settings_reset() -> Iterator[None]:
    """While a command line is parsed, a class that changes takes along only what is no affair of its own.

    What the common base of the old and the new class takes is kept: an algorithm's policy, judge and sampler, a data
    module's held-out prompts and batch size. What is a class's own starts at the new class's defaults, such as beta:
    numbers of one name have another meaning and another scale there. What was kept and dropped is printed.
    """
    lines: dict[str, None] = {}

    def tell(old: Any, new: Any, there: dict[str, Any], kept: Set[str]) -> None:
        dropped = [f"{name} {_shown(there[name])}" for name in there if name not in kept and there[name] is not None]
        if dropped or not _refines(new, old):
            taken = ", ".join(name for name in there if name in kept) or "nothing"
            lines[
                f"{_setting(new)}: {_name(old)} -> {_name(new)}: kept {taken}; dropped {', '.join(dropped) or 'nothing'} "
                f"({_name(new)}'s own settings start at its defaults unless given)"
            ] = None

    try:
        with class_changes(shared, tell):
            yield
    finally:
        _print(list(lines))


def shared(old: Any, new: Any) -> Set[str]:
    """Names of the arguments that two classes have in common by design, those of their common base.

    Args:
        old: A class, or a function that makes something.
        new: Another.

    Returns:
        None where no base of ours has arguments: the names of an optimiser's or a judge's are its own.
    """
    bases = [base for base in _bases(new) if base in _bases(old) and base.__module__.startswith("lit_align.")]
    init = bases[-1].__dict__.get("__init__") if bases else None
    return set() if init is None else inspect.signature(init).parameters.keys() - {"self"}


@rank_zero_only
def _print(lines: list[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _bases(kind: Any) -> list[type]:
    """A class and its bases that say something, the most general last; none of a function."""
    return [base for base in inspect.getmro(kind) if base not in (object, ABC, Generic)] if _is_class(kind) else []


def _refines(new: Any, old: Any) -> bool:
    """Whether the old class is the general one that a setting has before anybody says so."""
    return _is_class(new) and _is_class(old) and issubclass(new, old)


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type)


def _setting(kind: Any) -> str:
    """What a class is for: ``model``, ``data``, ``judge``, ``optimizer``."""
    names = [base.__name__ for base in _bases(kind)]
    ours = [base.__name__ for base in _bases(kind) if base.__module__.startswith("lit_align.")]
    general = (ours or names or ["class"])[-1]
    return _SETTINGS.get(general, general.lower())


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))


def _shown(value: Any) -> str:
    text = str(value.as_dict() if isinstance(value, Namespace) else value)
    return text if len(text) <= 40 else f"{text[:36]} ..."


# ---------------------------------------------------------------------- files, then options, classes before arguments


def in_order(arguments: list[str]) -> list[str]:
    """A command line whose options win over its files, and whose classes come before their arguments.

    Args:
        arguments: As they were typed: ``--model.beta 1 --model SimPO -c A`` means ``-c A --model SimPO --model.beta 1``.
    """
    command, groups = _grouped(arguments)
    if not command:
        return arguments
    files = [group for group in groups if _is_file(group)]
    options: list[list[str]] = []
    for group in (group for group in groups if not _is_file(group)):
        name = _option(group)
        inner = [place for place, other in enumerate(options) if _option(other).startswith(f"{name}.")]
        choice = name.startswith(("model", "data")) and inner
        options.insert(inner[0] if choice else len(options), group)
    return [*command, *(argument for group in [*files, *options] for argument in group)]


def _grouped(arguments: list[str]) -> tuple[list[str], list[list[str]]]:
    """What comes before the first option, and each option with its values."""
    command: list[str] = []
    groups: list[list[str]] = []
    for argument in arguments:
        if argument.startswith("--") or argument in ("-c", "-h"):
            groups.append([argument])
        else:
            (groups[-1] if groups else command).append(argument)
    return command, groups


def _is_file(group: list[str]) -> bool:
    return group[0].split("=")[0] in _FILE


def _option(group: list[str]) -> str:
    """The dotted name of a setting, however it was typed."""
    return _plain(group[0].removeprefix("--").split("=")[0])


def _plain(name: str) -> str:
    return name.replace(".init_args.", ".").removesuffix(".class_path").removesuffix(".init_args")


# ---------------------------------------------------------------------- what is missing


def check_whole(arguments: list[str]) -> None:
    """Refuse files that say too little, such as an overlay alone, before anything is imported for them.

    Args:
        arguments: A command line in order.

    Raises:
        ValueError: They name no policy, or not its model; the message says what to type.
    """
    command, groups = _grouped(arguments)
    files = [_value(group) for group in groups if _is_file(group)]
    said: dict[str, Any] = {}
    for group in groups:
        said |= dict(_said(_read(_value(group))) if _is_file(group) else _said(_loaded(_value(group)), _option(group)))
    if not (command and files) or "-h" in arguments or "--help" in arguments:
        return
    if "model.policy" not in said:
        raise ValueError(
            f"{files[-1]} is laid over a whole config, and there is none: python -m lit_align {shlex.join(command)} "
            f"-c {_whole_config_near(files[-1])} {shlex.join(argument for group in groups for argument in group)}"
        )
    if _last(said["model.policy"]) == "LanguageModel" and "model.policy.name" not in said:
        needed = _NEEDED.get(_last(said.get("data")), ("data.train", "model.judge"))
        missing = [f"--{name}" for name in ("model.policy.name", *needed) if name not in said]
        raise ValueError(f"{files[0]} leaves open what is yours: give {', '.join(missing)}, or a second -c with them")


def _value(group: list[str]) -> str:
    """What an option says; nothing of one that is a flag."""
    _, _, behind = group[0].partition("=")
    return behind or " ".join(group[1:])


def _read(file: str) -> Any:
    """What a config says, a file or the text itself; nothing of one that the parser will refuse."""
    return _loaded(Path(file).read_text() if Path(file).is_file() else file)


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _said(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of all settings with what they are set to; a class is the value of what it is an instance for."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _said(inner, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))


def _last(path: Any) -> str:
    return str(path).rpartition(".")[2]


def _whole_config_near(file: str) -> str:
    """The folder that an overlay lies in some folder of, as ``-c`` takes it."""
    found = (str(folder) for folder in Path(file).parents if (folder / "config.yaml").is_file())
    return next(found, "configs")
