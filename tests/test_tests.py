"""Tests and benchmarks speak of behaviour: they know no private names of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT).as_posix() for name in ("tests", "benchmarks") for path in (ROOT / name).rglob("*.py")
)
# What belongs to others and has no public name.
OTHERS = {
    "_attn_implementation": "transformers: how attention is computed",
    "_prepare_dataset": "TRL: what it makes of a dataset",
    "_parse_ckpt_path": "Lightning: what a checkpoint changes of the config",
    "_split_scope": "pytest-xdist: which tests share a worker",
    "_exit": "Python: leave at once",
}
PRIVATE = re.compile(r"_(?!_)\w+")
TARGET = re.compile(r"(lit_align[\w.]*)?[.:](?P<name>_(?!_)\w+)")  # such as `lit_align.module:_name`
TAKE_A_NAME = {"setattr", "getattr", "delattr", "hasattr", "object"}  # the last one is mock's `patch.object`


def private_names(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of all that is private to something other than the source itself."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=owner, attr=name) if PRIVATE.fullmatch(name):
                if not (isinstance(owner, ast.Name) and owner.id in ("self", "cls")):
                    yield node.lineno, name
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "lit_align":
                parts = [*module.split("."), *(alias.name for alias in names)]
                yield from ((node.lineno, name) for name in parts if PRIVATE.fullmatch(name))
            case ast.Import(names=names):
                parts = [
                    part for alias in names for part in alias.name.split(".") if alias.name.startswith("lit_align")
                ]
                yield from ((node.lineno, name) for name in parts if PRIVATE.fullmatch(name))
            case ast.Call(
                func=ast.Attribute(attr=called) | ast.Name(id=called), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if called in TAKE_A_NAME and PRIVATE.fullmatch(name):
                    yield node.lineno, name
            case ast.Constant(value=str(text)) if found := TARGET.fullmatch(text):
                yield node.lineno, found["name"]
            case ast.ClassDef(
                bases=[_, *_], body=body
            ):  # which may override what a class of the package keeps to itself
                methods = [inner.name for inner in body if isinstance(inner, ast.FunctionDef)]
                yield from ((node.lineno, name) for name in methods if PRIVATE.fullmatch(name))


@pytest.mark.parametrize(
    "line",
    [
        "judge._tokenizer",
        "super()._asked(1)",
        "from lit_align.runs.record import _table",
        "from lit_align._secret import table",
        "import lit_align._secret",
        'monkeypatch.setattr(module, "_LIMIT", 1)',
        'mock.patch.object(module, "_LIMIT", 1)',
        'getattr(judge, "_tokenizer")',
        'monkeypatch.setattr("lit_align.judges.chat._WAIT", 1)',
        'Point("lit_align.callbacks.checkpoints:_point")',
        'patched = {f"{SAMPLING}._COMPACT": 2.0}',
        "class Lossy(RewardJudge):\n    def _asked(self): ...",
    ],
)
def test_every_kind_of_private_name_is_seen(line):
    assert len(list(private_names(line))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "self._seen",
        "judge.__class__",
        "from torch.utils._python_dispatch import TorchDispatchMode",
        'f"{name}_token_logps"',
        'update("_previous", judge)',
        "_free_port()",
        "class Own:\n    def _help(self): ...",
        'setattr(judge, "seen", 1)',
    ],
)
def test_what_is_public_or_the_sources_own_is_not(line):
    assert not list(private_names(line))


@pytest.mark.parametrize("source", SOURCES)
def test_no_private_name_of_the_package_is_used(source):
    found = [(line, name) for line, name in private_names((ROOT / source).read_text()) if name not in OTHERS]
    assert not found, (
        f"{source}: {', '.join(f'{name} (line {line})' for line, name in found)}: say it with public names"
    )
