"""What the law test of a method declares of it, for the tests that all methods have in common."""

from importlib import import_module
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def declared(kind: type[T]) -> list[T]:
    """Everything of a kind that stands at the top of a law test of a loss, once."""
    paths = sorted((Path(__file__).parent / "losses").glob("test_*.py"))
    modules = [import_module(f"tests.losses.{path.stem}") for path in paths]
    found = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, kind)}
    return list(found.values())
