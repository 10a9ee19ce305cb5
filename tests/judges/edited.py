"""Modules of a user, edited between two runs."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

HAPPY = """\
def mood(prompts, responses, records):
    good, bad = {"good", "great", "nice", "happy"}, {"bad", "awful", "poor", "sad"}
    return [float(sum((w in good) - (w in bad) for w in text.split())) for text in responses]
"""
SAD = HAPPY.replace("(w in good) - (w in bad)", "(w in bad) - (w in good)")
SAME_WORDS = f"# Nothing but a remark.\n{HAPPY}"


class Modules:
    """A folder of modules that can be imported.

    Args:
        folder: Where they are written.
        monkeypatch: Forgets the folder when the test is over.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)  # which is told from another by seconds and size

    def edit(self, name: str, text: str) -> None:
        """Write a module, imported or not."""
        (self.folder / f"{name}.py").write_text(text)

    def imported(self, name: str, text: str) -> ModuleType:
        """Write a module and import it, as a process does that starts after the edit."""
        self.edit(name, text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)
