"""A class takes from its bases the types of arguments that its author has not written down."""

import inspect
from contextlib import suppress
from typing import Any, get_type_hints


def inherit_annotations(kind: type) -> None:
    """Annotate what a class's own ``__init__`` leaves open as the classes that it extends do, argument by argument.

    A config names the class of an argument, such as a judge, without a path only where its type is known.
    """
    init = vars(kind).get("__init__")
    if init is None:
        return
    known: dict[str, Any] = {}
    for parent in reversed(kind.__mro__[1:]):
        known |= _hints(parent)
    for name, parameter in inspect.signature(init).parameters.items():
        if parameter.annotation is parameter.empty and name in known:
            init.__annotations__[name] = known[name]


def _hints(kind: type) -> dict[str, Any]:
    """Return the types of the arguments of a class's own ``__init__``; none where a name in them means nothing here."""
    init = vars(kind).get("__init__")
    with suppress(NameError, TypeError, AttributeError):
        return get_type_hints(init)
    return {}
