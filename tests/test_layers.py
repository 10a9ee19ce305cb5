"""The import rule: a module imports only from its own level or a lower one, and losses know nothing but tensors."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_align

ROOT = Path(lit_align.__file__).parent
LEVELS = [
    {"types", "losses", "utils", "compat", "run_folder"},
    {"sampling", "judges", "data", "evaluation"},
    {"models"},
    {"anchors"},
    {"iteration"},
    {"algorithms", "games"},
    {"plan"},
    {"callbacks"},
    {"runs"},
    {"cli", "__main__"},
]
REGISTRY = {"HOME", "__getattr__", "__version__"}
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def part_of(module: str) -> str:
    """The folder of a module, or the module itself where it lies at the top."""
    return module.split("/")[0].removesuffix(".py")


def imports(source: str, package: str) -> Iterator[str]:
    """Full names of everything a source imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def imported_by(module: str) -> list[str]:
    package = ".".join(["lit_align", *Path(module).parent.parts])
    return list(imports((ROOT / module).read_text(), package))


def parts(names: list[str]) -> set[str]:
    """Rooms that are imported from; the registry of public names is none."""
    return {name.split(".")[1] for name in names if name.startswith("lit_align.")} - REGISTRY


def test_every_kind_of_import_is_seen():
    source = "import a.b\nfrom a import c\ndef f():\n    from . import d\n    from ..e import g\n    import h"
    assert list(imports(source, "lit_align.data")) == ["a.b", "a.c", "lit_align.data.d", "lit_align.e.g", "h"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_a_level_and_imports_from_no_higher_one(module):
    assert part_of(module) in LEVEL
    for part in parts(imported_by(module)):
        assert part in LEVEL, f"{module} imports lit_align.{part}, which has no level"
        assert LEVEL[part] <= LEVEL[part_of(module)], f"{module} imports lit_align.{part} from above"


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) == "losses"])
def test_losses_import_torch_jaxtyping_and_the_standard_library_alone(module):
    names = imported_by(module)
    assert parts(names) <= {"losses"}
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign <= {"torch", "jaxtyping", "lit_align"}


def test_the_package_itself_imports_nothing_of_its_own_at_the_start():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    at_start = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [name for node in at_start for name in imports(ast.unparse(node), "lit_align")]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names
