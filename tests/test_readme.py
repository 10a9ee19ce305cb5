"""The README tells the truth: its paths exist, its commands parse, its Python imports and matches the signatures."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

import lit_align
from lit_align.cli import AlignmentCLI, main
from lit_align.runs.export import export_parser
from tests.algorithms.cases import ALGORITHMS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_relative_link_leads_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_python_example_names_what_exists_and_passes_arguments_that_exist():
    code = next(block for block in python_blocks() if "LanguageModel" in block)
    tree = ast.parse(code)
    (imported,) = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name: getattr(lit_align, alias.name) for alias in imported.names}
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", None) in names]
    assert {call.func.id for call in calls} == set(names)
    for call in calls:
        keywords = {keyword.arg: None for keyword in call.keywords}
        inspect.signature(names[call.func.id]).bind(*call.args, **keywords)


def test_every_algorithm_and_every_config_of_one_has_a_row():
    table = README.split("<!-- methods -->")[1].split("<!-- /methods -->")[0]
    for path in (ROOT / "configs" / "algorithms").glob("*.yaml"):
        assert path.stem in ("dpo_offline", "dpo_replay") or f"configs/algorithms/{path.name}" in table
    for name in ALGORITHMS:
        assert f"`{name}" in table, name


def test_the_table_of_methods_is_the_one_that_is_made_from_their_files(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    methods = importlib.import_module("methods")
    results = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert methods.table(results) == README.split(methods.BEGIN)[1].split(methods.END)[0]


def test_the_changelog_tells_of_every_method(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    methods, changelog = importlib.import_module("methods"), (ROOT / "CHANGELOG.md").read_text()
    assert methods.with_stubs(changelog) == changelog
    (told,) = (line for line in changelog.splitlines() if "CalDPO" in line)
    assert methods.with_stubs(changelog.replace(f"{told}\n", "")) == changelog


def python_blocks():
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_lab_example_runs_and_does_what_it_says():
    names = {}
    exec(next(block for block in python_blocks() if "play(" in block), names)
    assert names["played"].laws.shape == (31, 80, 10)
    distance = names["distance"]
    far = distance[:-1] > 1e-5  # beyond, the solver's own error shows
    assert (distance[1:][far] <= distance[:-1][far] / 1.16 * 1.001).all()


def commands():
    text = README.replace("\\\n", " ")
    lines = re.findall(r"^ {4}(?:.*&& )?python -m lit_align (.*?)(?:\s+#.*)?$", text, flags=re.MULTILINE)
    return [line.split() for line in lines]


def test_the_command_that_exports_parses():
    (arguments,) = [arguments for arguments in commands() if arguments[0] == "export"]
    assert export_parser().parse_args(arguments[1:]).output.name == "my_model"


@pytest.mark.parametrize(
    "arguments",
    [arguments for arguments in commands() if arguments[0] != "export"],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_every_command_parses(arguments, monkeypatch, tmp_path):
    (tmp_path / "my_rewards.py").write_text("def brevity(prompts, responses, records): return [0.0] * len(prompts)\n")
    monkeypatch.chdir(tmp_path)
    arguments = ["configs/" if argument == "runs/RUN" else argument for argument in arguments]
    arguments = [str(ROOT / argument) if argument.startswith("configs/") else argument for argument in arguments]
    seen = {}

    def stop(self):
        seen["config"] = self.config
        raise KeyboardInterrupt

    monkeypatch.setattr(AlignmentCLI, "before_instantiate_classes", stop)
    with pytest.raises(KeyboardInterrupt):
        main(arguments)
    assert seen["config"]["subcommand"] == arguments[0]


def test_the_commands_are_all_found():
    assert len(commands()) == 17
