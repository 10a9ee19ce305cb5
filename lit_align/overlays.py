"""Configs are laid over one another: files in their order, what is typed over all of them, and no overlay alone.

In ``-c A -c B --model.beta 1`` B wins over A, and what is typed wins over both, wherever it stands.
"""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lit_align.run_folder import RunFolder

_FILE = ("-c", "--config")
_YOURS = {"PromptPool": ("data.train", "model.judge"), "PairData": ("data.train",), "Replay": ("data.path",)}
"""The user has to give these for each kind of data; given responses need no judge."""


def in_order(arguments: list[str]) -> list[str]:
    """Return a command line whose options win over its files, and whose classes come before their arguments.

    ``--model.beta 1 --model SimPO -c A`` becomes ``-c A --model SimPO --model.beta 1``.
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
    """Return what comes before the first option, and each option with its values."""
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
    """Return the dotted name of a setting, however it was typed."""
    return _plain(group[0].removeprefix("--").split("=")[0])


def _plain(name: str) -> str:
    return name.replace(".init_args.", ".").removesuffix(".class_path").removesuffix(".init_args")


def check_whole(arguments: list[str]) -> None:
    """Refuse files that say too little, such as an overlay alone, before anything is imported for them.

    Args:
        arguments: A command line in order.

    Raises:
        ValueError: They name no policy, or leave open which model, prompts and judge; the message says what to type.
    """
    command, groups = _grouped(arguments)
    files = [_value(group) for group in groups if _is_file(group)]
    if not (command and files) or {"-h", "--help"} & {*arguments}:
        return
    if not all(isinstance(_read(file), dict) for file in files):
        return  # the parser says so
    if "model.policy" not in _all_said(groups):
        whole = [["-c", _whole_config_near(files[-1])], *groups]
        works = ["python", "-m", "lit_align", *command, *(argument for group in whole for argument in group)]
        works += [word for name in _missing(command, whole) for word in (f"--{name}", name.rpartition(".")[2].upper())]
        raise ValueError(f"{files[-1]} is laid over a whole config, and there is none: {shlex.join(works)}")
    missing = ", ".join(f"--{name}" for name in _missing(command, groups))
    if missing:
        raise ValueError(f"{files[0]} leaves open what is yours: give {missing}, or another -c with it")


def _missing(command: list[str], groups: list[list[str]]) -> list[str]:
    """Return what nobody says of a language model's run."""
    said = _all_said(groups)
    if _last(said.get("model.policy")) != "LanguageModel":
        return []
    yours = _YOURS.get(_last(said.get("data")), ()) if command == ["fit"] else ()
    return [name for name in ("model.policy.name", *yours) if not any(f"{key}.".startswith(f"{name}.") for key in said)]


def _all_said(groups: list[list[str]]) -> dict[str, Any]:
    """Return what files and options say together; of data of another class nothing is left."""
    said: dict[str, Any] = {}
    for group in groups:
        value = _value(group)
        more = dict(_said(_read(value)) if _is_file(group) else _said(_loaded(value), _option(group)))
        if "data" in more and _last(more["data"]) != _last(said.get("data")):
            said = {name: value for name, value in said.items() if not name.startswith("data.")}
        said |= more
    return said


def _value(group: list[str]) -> str:
    """Return what an option says; nothing of one that is a flag."""
    _, _, behind = group[0].partition("=")
    return behind or " ".join(group[1:])


def _read(file: str) -> Any:
    """Return what a config says, a file or the text itself; nothing of one that the parser will refuse."""
    path = RunFolder(Path(file)).config if Path(file).is_dir() else Path(file)
    return _loaded(path.read_text() if path.is_file() else file)


def _loaded(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _said(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give all settings by dotted name; a class is the value of what it is an instance for."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _said(inner, name if key in ("class_path", "init_args") else f"{name}.{key}".lstrip("."))


def _last(path: Any) -> str:
    return str(path).rpartition(".")[2]


def _whole_config_near(file: str) -> str:
    """Return the folder that an overlay lies in some folder of, as ``-c`` takes it."""
    for folder in Path(file).absolute().parents:
        if RunFolder(folder).config.is_file():
            return f"{folder if Path(file).is_absolute() else os.path.relpath(folder)}/"
    return "configs/"
