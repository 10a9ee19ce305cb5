"""Objects remember the arguments that they were built with: these tell them apart, and a config says them."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec

_BUILT_WITH = "_built_with"  # the attribute that holds them
_P = ParamSpec("_P")


def noting(init: Callable[_P, None]) -> Callable[_P, None]:
    """Make an ``__init__`` leave its arguments for :func:`built_with`; those of the class that was asked for count."""

    @wraps(init)
    def noted(*args: _P.args, **kwargs: _P.kwargs) -> None:
        built = args[0]
        outermost = _BUILT_WITH not in vars(built)
        if outermost:
            object.__setattr__(built, _BUILT_WITH, _bound(init, *args, **kwargs))  # it may be frozen
        init(*args, **kwargs)
        if outermost:  # it has had its say on numbers out of their range
            check_finite(type(built).__name__, vars(built)[_BUILT_WITH])

    noted.notes = True  # type: ignore[attr-defined]
    return noted


def check_finite(owner: str, numbers: Mapping[str, Any]) -> None:
    """Refuse nan and infinity, which slip through a comparison with the end of a range.

    Args:
        owner: Error messages begin with it: a class, or the setting that holds the numbers.
        numbers: The values by name; what is no number is not looked at.

    Raises:
        ValueError: One of them is not finite.
    """
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{owner}.{name} must be a finite number, got {value}")


def note_arguments(kind: type) -> None:
    """Let a class that has just been made note the arguments of its own ``__init__``, if it has one."""
    init = vars(kind).get("__init__")
    if init is not None and not is_noted(init):
        setattr(kind, "__init__", noting(init))  # noqa: B010  (mypy: an instance's)


def is_noted(init: Callable[..., None]) -> bool:
    """Say whether :func:`noting` has made it."""
    return hasattr(init, "notes")


def built_with(thing: Any) -> dict[str, Any]:
    """Return the arguments that an object was built with by name, defaults included."""
    given: dict[str, Any] = vars(thing).get(_BUILT_WITH, {})
    if not is_dataclass(thing):
        return given
    # Its __init__ was written after the class was made, and its arguments are its fields.
    return {field.name: getattr(thing, field.name) for field in fields(thing) if field.init} | given


def _bound(init: Callable[..., None], *args: Any, **kwargs: Any) -> dict[str, Any]:
    signature = inspect.signature(init)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:  # it says so itself in a moment
        return {}
    bound.apply_defaults()
    (_, *names) = signature.parameters.values()
    found: dict[str, Any] = {}
    for name in names:
        value = bound.arguments[name.name]
        found |= value if name.kind is name.VAR_KEYWORD else {name.name: value}
    return found
