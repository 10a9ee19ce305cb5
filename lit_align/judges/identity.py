"""What a judge was built with is described as text that is the same in every process."""

import inspect
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from copyreg import dispatch_table
from enum import Enum
from functools import cache, partial
from numbers import Real
from pathlib import Path
from types import CellType, FunctionType, MappingProxyType, ModuleType
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from lit_align.utils.code_digests import code_digest, defining_module, is_installed, module_digest
from lit_align.utils.digests import bytes_digest, model_digest, weights_digest

log = logging.getLogger(__name__)

_PLAIN = (dict, OrderedDict, MappingProxyType)  # these mappings hold nothing but their items


@runtime_checkable
class Identified(Protocol):
    """Says itself, in every process alike, what it is, as judges and policies do."""

    @property
    def identity(self) -> Any:
        """Return short digests."""


class Description:
    """Describes values as text that is equal where they mean the same, in whatever process.

    Attributes:
        unknown: Names of what cannot be described beyond its class or name.
    """

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self._inside: list[int] = []  # it holds the ids of objects that are being described

    def of(self, value: Any) -> str:
        """Return a value as text."""
        if id(value) in self._inside:
            return f"inside {self._inside.index(id(value))}"
        self._inside.append(id(value))
        try:
            return self._of(value)
        finally:
            self._inside.pop()

    def _of(self, value: Any) -> str:
        if isinstance(value, Enum):
            return f"{self._class(type(value))} {value.name}"
        if value is None or isinstance(value, int | complex):
            return repr(value)
        if isinstance(value, Real):  # 1.0 is 1
            number = float(value)
            return repr(int(number)) if number.is_integer() else repr(number)
        if isinstance(value, str | os.PathLike):
            return _text(os.fspath(value))
        if isinstance(value, bytes | bytearray):
            return f"bytes {bytes_digest(bytes(value))}"
        if isinstance(value, Mapping) and type(value) in _PLAIN:
            return self._unordered("mapping", [f"{self.of(key)}: {self.of(item)}" for key, item in value.items()])
        if isinstance(value, Set):
            return self._unordered("set", map(self.of, value))
        if isinstance(value, list | tuple):  # a config has no tuples
            return f"[{', '.join(map(self.of, value))}]"
        if isinstance(value, Tensor):
            return f"tensor {weights_digest([('', value)])}"
        return self._of_code(value) or self._of_object(value)

    def _of_code(self, value: Any) -> str | None:
        if isinstance(value, ModuleType):
            return f"module {value.__name__} {module_digest(value.__name__)}"
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, partial):
            return f"partial {self.of(value.func)} {self.of(value.args)} {self.of(value.keywords)}"
        if inspect.ismethod(value):
            return f"method {value.__name__} of {self.of(value.__self__)}"
        if inspect.isfunction(value):
            bound = [_content(cell) for cell in value.__closure__ or ()]
            defaults = value.__defaults__, value.__kwdefaults__
            return f"function {_place(value)} {self.code(value)} {self.of(bound)} {self.of(defaults)}"
        if inspect.isbuiltin(value):
            owner = value.__self__
            of = "" if owner is None or isinstance(owner, ModuleType) else f" of {self.of(owner)}"
            return f"function {value.__module__}.{value.__qualname__}{of}"
        return None

    def _of_object(self, value: Any) -> str:
        """Describe an object by what it says itself, else by its weights, else by what pickle would keep of it."""
        kind = type(value)
        if isinstance(value, Identified) and not callable(value.identity):
            return f"{self._class(kind)} {self.of(value.identity)}"
        if isinstance(value, nn.Module):
            return self._of_network(value)
        try:
            reduced = dispatch_table[kind](value) if kind in dispatch_table else value.__reduce_ex__(4)
        except Exception:  # what has a life of its own, such as a lock, fails in any way there is
            self.unknown.append(f"a {kind.__module__}.{kind.__qualname__}")
            return self._class(kind)
        if isinstance(reduced, str):  # it is a name in its module
            return f"{self._class(kind)} {reduced} {self.of(getattr(value, '__wrapped__', None))}"  # caches wrap
        made_by, arguments, *rest = reduced
        state, items, pairs = (*rest[:3], None, None, None)[:3]
        parts = [_without(arguments, kind), state, list(items or ()), dict(pairs or ())]
        parts += [made_by] if isinstance(made_by, partial) else []  # it holds arguments, too
        return f"{self._class(kind)} {self.of(parts)}"

    def _of_network(self, network: nn.Module) -> str:
        """Describe a network by its weights, and the classes and numbers of its layers."""
        weights = weights_digest([*network.named_parameters(), *network.named_buffers()])
        layers = [[name, type(layer), _settings(layer)] for name, layer in network.named_modules()]
        return f"network {weights} {self.of(layers)}"

    def _class(self, kind: type) -> str:
        code = "" if is_installed(kind.__module__) else self.code(kind)
        return f"class {kind.__qualname__} {code}".rstrip()

    def code(self, thing: Any) -> str:
        """Return a digest of the code of a function or a class; it is empty for ours, whose changes a version names."""
        if is_ours(defining_module(thing)):
            return ""
        digest = code_digest(thing)
        if digest is None:
            self.unknown.append(getattr(thing, "__qualname__", repr(type(thing))))
        return digest or ""

    @staticmethod
    def _unordered(kind: str, parts: Any) -> str:
        return f"{kind} {{{', '.join(sorted(parts))}}}"


def is_ours(module: str) -> bool:
    """Say whether a module is of lit_align."""
    return module.partition(".")[0] == __name__.partition(".")[0]


def _place(function: FunctionType) -> str:
    """Return the name of a function; lambdas share theirs, and may share a line."""
    if function.__name__ != "<lambda>":
        return function.__qualname__
    columns = [column for _, _, *both in function.__code__.co_positions() for column in both if column is not None]
    return f"{function.__qualname__} {function.__code__.co_firstlineno} {min(columns)} {max(columns)}"


def _text(text: str) -> str:
    """Describe a text; a folder with a model in it is that model, wherever it lies."""
    if text and os.path.isfile(os.path.join(text, "config.json")):  # a template is too long for Path
        return f"model {model_digest(text)}"
    return repr(text)


def _content(cell: CellType) -> Any:
    """Return what a closure holds, if there is anything yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _settings(layer: nn.Module) -> dict[str, Any]:
    """Return what a layer holds beside weights and other layers; whether it trains is for its caller to say."""
    return {name: value for name, value in vars(layer).items() if not name.startswith("_") and name != "training"}


def _without(arguments: Sequence[Any], kind: type) -> list[Any]:
    """Return the arguments of a reconstruction, without the class that is made."""
    return [argument for argument in arguments if argument is not kind]


@cache
def tell_matched_by_name(judge: str, run: Path) -> None:
    """Say once that verdicts of an earlier version are taken for a judge's own.

    Args:
        judge: Class and name of the judge.
        run: The run folder that the verdicts are in.
    """
    log.warning(
        "%s: verdicts of an earlier version name their judge alone (%s): they are taken for this one's, whatever its "
        "settings and code were then",
        run,
        judge,
    )
