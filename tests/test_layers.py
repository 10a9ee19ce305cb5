"""The import rule: a module imports only from its own level or a lower one, and losses know nothing but tensors.

The privacy rule: what has an underscore is used in the file that defines it, and third parties' in ``compat.py`` alone.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from importlib import import_module
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
    {"class_changes", "overlays", "cli", "__main__"},
]
DOCUMENTED = {"os._exit"}  # with an underscore all the same
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


def test_compat_lies_on_the_ground_floor():
    assert not parts(imported_by("compat.py"))


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def own_names(tree: ast.AST) -> set[str]:
    """What a source defines itself: functions, classes, and attributes of its objects."""
    nodes = list(ast.walk(tree))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    fields = {node.target.id for node in nodes if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    stored = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return defined | fields | {node.attr for node in stored if is_of_self(node)}


def is_of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def borrowed(source: str, package: str, house: set[str]) -> Iterator[str]:
    """Private parts of others that a source uses, in whatever way.

    Args:
        source: Of a module.
        package: That it lies in.
        house: Names that any module of the house defines for its objects: those a class may inherit.
    """
    tree = ast.parse(source)
    own = own_names(tree)
    yield from (name for name in imports(source, package) if is_private(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node) not in DOCUMENTED:
            if node.attr not in (house if is_of_self(node) else own):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and is_private(str(arg.value)))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and node.slice.value == "loops":
            yield ast.unparse(node)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "compat.py"])
def test_private_parts_stay_where_they_are_defined_and_those_of_third_parties_in_compat(module):
    package = ".".join(["lit_align", *Path(module).parent.parts])
    assert not list(borrowed((ROOT / module).read_text(), package, of_the_house()))


@cache
def of_the_house() -> set[str]:
    """Names that any module defines for its objects: those that a class elsewhere may inherit."""
    return set().union(
        *(own_names(ast.parse((ROOT / module).read_text())) for module in MODULES if module != "compat.py")
    )


@pytest.mark.parametrize("module", [module for module in MODULES if module not in ("compat.py", "__main__.py")])
def test_no_class_gives_a_private_name_of_a_third_party_another_meaning(module):
    names = vars(import_module(f"lit_align.{module.removesuffix('.py').replace('/', '.')}"))
    for node in ast.parse((ROOT / module).read_text()).body:
        if isinstance(node, ast.ClassDef):
            bases = [base for base in names[node.name].__mro__ if not base.__module__.startswith("lit_align.")]
            theirs = set().union(*(names_used_by(base) for base in bases))
            assert not {name for name in own_names(node) & theirs if is_private(name)}, node.name


def names_used_by(kind: type) -> set[str]:
    """What a class defines, and the attributes that its methods ask for."""
    functions = [getattr(value, "fget", None) or getattr(value, "__func__", value) for value in vars(kind).values()]
    codes = [code for function in functions if (code := getattr(inspect.unwrap(function), "__code__", None))]
    return set(vars(kind)).union(*(code.co_names for code in codes))


def test_every_private_use_is_seen():
    source = """
        from lightning import _x
        from torch.utils._python_dispatch import Mode
        import torch._dynamo as dynamo
        trainer._y = other._z
        super()._w()
        self._inherited + self._own + other._own + self.other._v
        self._theirs
        getattr(trainer, "_u")
        checkpoint["loops"]
        __import__, os._exit, x.__class__
        def f():
            self._own = 1
        async def _later():
            other._later()
    """
    found = list(borrowed(textwrap.dedent(source), "lit_align.data", {"_inherited", "_own"}))
    expected = ["lightning._x", "torch.utils._python_dispatch.Mode", "torch._dynamo", "trainer._y", "other._z"]
    expected += ["super()._w", "self.other._v", "self._theirs", "_u", "checkpoint['loops']"]
    assert sorted(found) == sorted(expected)


def test_tests_import_private_parts_of_third_parties_neither():
    tests = Path(__file__).parent
    names = {name for path in tests.rglob("*.py") for name in imports(path.read_text(), "tests")}
    theirs = {name for name in names if is_private(name) and name.split(".")[0] not in ("lit_align", "tests")}
    assert theirs == {"torch.utils._python_dispatch.TorchDispatchMode"}  # the only way to see collectives go by
