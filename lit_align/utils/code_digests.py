"""A digest of code, as it was when it was imported, tells a function or a class from an edited one."""

import ast
import inspect
import sys
import sysconfig
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

from lit_align.utils.digests import bytes_digest, text_digest

_INSTALLED = {sysconfig.get_paths()[place] for place in ("stdlib", "platstdlib", "purelib", "platlib")}
_seen: dict[str, tuple[object, str]] = {}  # by module: the spec of its last import, and its digest


def module_digest(name: str) -> str | None:
    """Return the digest of the file that a module was imported from; None where it has none, as a notebook has none.

    A file that is edited later has the digest of what runs until the module is imported again.
    """
    module = sys.modules.get(name)
    path = getattr(module, "__file__", None)
    if path is None or not Path(path).is_file():
        return None
    spec = getattr(module, "__spec__", None)
    if name not in _seen or _seen[name][0] is not spec:
        _seen[name] = spec, bytes_digest(Path(path).read_bytes())
    return _seen[name][1]


def code_digest(thing: Any) -> str | None:
    """Digest the module that defines a function or class, else its own source; return None where neither is found."""
    return module_digest(defining_module(thing)) or _source_digest(thing)


def defining_module(thing: Any) -> str:
    """Return the module that defines a function, a class, or the class of an object that is called like one."""
    thing = inspect.unwrap(thing.func if isinstance(thing, partial) else thing)
    return getattr(thing, "__module__", None) or type(thing).__module__


def is_installed(module: str) -> bool:
    """Return whether a module is of Python or an installed package, which a version names, not of the user."""
    root = module.partition(".")[0]
    if root in sys.stdlib_module_names:
        return True
    places = [getattr(sys.modules.get(root), "__file__", None), *getattr(sys.modules.get(root), "__path__", ())]
    return any(path is not None and Path(path).is_relative_to(place) for path in places for place in _INSTALLED)


def _source_digest(thing: Any) -> str | None:
    try:
        return text_digest(inspect.getsource(thing))
    except (OSError, TypeError):
        if not inspect.isclass(thing):
            return None
    # A class of a notebook has no file to be looked up in, and its methods have their cell.
    methods = [inspect.unwrap(value) for value in vars(thing).values() if inspect.isfunction(value)]
    own = [method for method in methods if method.__qualname__ == f"{thing.__qualname__}.{method.__name__}"]
    sources = [_class_source(thing.__name__, method) for method in own]
    return next((text_digest(source) for source in sources if source is not None), None)


def _class_source(name: str, method: FunctionType) -> str | None:
    """Return the source of the class that a method is written in, its attributes and decorators included."""
    try:
        lines, row = inspect.findsource(method)
        classes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.ClassDef)]
    except (OSError, TypeError, SyntaxError):
        return None
    for node in reversed(classes):  # the innermost first
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if node.name == name and first <= row + 1 <= (node.end_lineno or 0):
            return "".join(lines[first - 1 : node.end_lineno])
    return None
