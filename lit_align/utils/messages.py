"""A parser's many lines become the one that says what to mend, with the valid name nearest to a mistyped one."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from typing import Any

from jsonargparse import ArgumentParser

_NOISE = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Problem with given class_path",
)
_KEY = re.compile(r'Parser key "(?P<key>.+?)":\s*(?P<rest>.*)')
_OWNER = re.compile(r"Problem with given class_path '(?P<path>.+)':")
_CLASS = re.compile(r"Expected a dot import path string: (?P<name>.*)")
_ABSENT = re.compile(r"(Type .+: )?module '(?P<module>.+?)' has no attribute '(?P<name>.+?)'")
_OPTION = re.compile(r"(Type .+: )?Option '(?P<name>.+?)' is not accepted(.*class_path='(?P<path>.+?)')?")
_OF_COMMAND = re.compile(r"Subcommand '.+' does not accept option '(?P<name>.+)'")
_TYPED = re.compile(r"unrecognized arguments: --(?P<name>[\w.]+)")
_PATH = re.compile(r"\w+(?:\.\w+)+")


def one_line(message: str, settings: Iterable[str] = ()) -> str:
    """Return the innermost complaints of a nested message, after the key they are about.

    Args:
        message: What jsonargparse says, which lists every alternative it tried, or anything else.
        settings: Dotted names of the settings that a command has, for a mistyped one.
    """
    if match := _OF_COMMAND.match(message) or _TYPED.match(message):
        return f"{match['name']}: {_no_setting(nearest(match['name'], settings))}"
    keys: list[str] = []
    complaints: list[str] = []
    owner = bases = ""
    for line in (line.strip().removeprefix("- ") for line in message.splitlines()):
        if match := _KEY.fullmatch(line):
            keys.append(match["key"])
            line, bases = match["rest"], ""
        if match := _OWNER.fullmatch(line):
            owner = match["path"]
        elif line.startswith("Subtypes:"):
            bases = line
        elif match := _CLASS.fullmatch(line):
            line = _no_class(match["name"], nearest(match["name"], _classes(bases)))
        elif match := _ABSENT.match(line):
            module, name = match["module"], match["name"]
            there = sys.modules.get(module)
            known = nearest(name, getattr(there, "__all__", dir(there)))
            line = _no_class(f"{module}.{name}", known and f"{module}.{known}")
        elif match := _OPTION.match(line) or _TYPED.match(line):
            known = nearest(match["name"], arguments_of(_found_at(match.groupdict().get("path") or owner)))
            line = _no_setting(known and ".".join([*keys, known]))
            keys.append(match["name"])
        if line and not line.startswith(_NOISE) and line not in complaints:
            complaints.append(line)
    text = "; ".join(complaints) or " ".join(message.split())
    return f"{'.'.join(keys)}: {text}" if keys else text


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid dotted name that was probably meant: ``trainer.max_epochs`` of ``trainer.max_epoch``.

    A name without a dot may be the last part of one, and where only the first part is mistyped the rest is kept.

    Args:
        name: What was typed.
        valid: What could have been typed.

    Returns:
        None where nothing is near.
    """
    names = sorted(valid, key=len, reverse=True)
    head, _, rest = name.partition(".")
    if rest:
        inner = [full.removeprefix(f"{head}.") for full in names if full.startswith(f"{head}.")]
        found = nearest(rest, inner) if inner else nearest(head, names)
        return found and (f"{head}.{found}" if inner else f"{found}.{rest}")
    by_last = {full.rpartition(".")[2]: full for full in names}  # the shortest name comes last, and wins
    close = get_close_matches(name, by_last, n=1)
    return by_last[close[0]] if close else None


@cache
def arguments_of(kind: Any) -> set[str]:
    """Return the names of all arguments of a class, those it passes on to its bases too; none of anything else."""
    if not isinstance(kind, type):
        return set()
    return {name.split(".")[0] for name in ArgumentParser().add_class_arguments(kind, fail_untyped=False)}


def _no_setting(known: str | None) -> str:
    return "there is no such setting" + (f"; did you mean {known}?" if known else "")


def _no_class(name: str, known: str | None) -> str:
    advice = f"did you mean {known}?" if known else "give a known name or a dotted path"
    return f"there is no class or function {name!r}; {advice}"


def _classes(bases: str) -> set[str]:
    """Return the public names of all classes that can be made and extend one whose path is in a text."""
    found = [_found_at(path) for path in _PATH.findall(bases)]
    kinds = [kind for base in found if isinstance(base, type) for kind in _extensions(base)]
    return {kind.__name__ for kind in kinds if not (inspect.isabstract(kind) or kind.__name__.startswith("_"))}


def _extensions(base: Any) -> Iterator[Any]:
    yield base
    for kind in base.__subclasses__():
        yield from _extensions(kind)


def _found_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)
