"""Functions of the user's own are found at the dotted path that a config names, or named by the path they have."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lit_align.utils.code_digests import defining_module, module_digest


@contextmanager
def directory_kept() -> Iterator[None]:
    """Come back to the working directory after code of the user's, whatever it has changed it to."""
    here = os.getcwd()
    try:
        yield
    finally:
        if os.getcwd() != here:
            os.chdir(here)


def import_function(path: str, setting: str) -> Callable[..., Any]:
    """Return the function at a dotted path, importable from the working directory as ``python -m`` would.

    Args:
        path: Its module and its name.
        setting: What messages call the setting that names it.

    Raises:
        ValueError: The module or the function does not exist, or is not callable.
    """
    module_name, _, name = path.rpartition(".")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        with directory_kept():
            function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{setting}: cannot import {path!r} from {os.getcwd()} ({error})") from error
    if not callable(function):
        raise ValueError(f"{setting}: {path!r} is no function")
    for module in (module_name, defining_module(function)):
        module_digest(module)  # digests the code that runs, whatever becomes of its file from here on
    return function  # type: ignore[no-any-return]


def path_of(function: Callable[..., Any]) -> str:
    """Return the dotted path of a function, or of the class of an object that is called like one."""
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{defining_module(function)}.{name}"
