"""Secrets are nowhere but in the environment, and what comes from strangers is data, never code."""

import ast
import json
import logging
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml

import lit_align
from lit_align import LanguageModel, PairRM, RewardModel
from lit_align.cli import main
from tests.chat_server import KEY, chat_server
from tests.command_line import refusal, write_config, write_yaml

ROOT = Path(lit_align.__file__).parent
CODE_FROM_DATA = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


@pytest.fixture
def server(monkeypatch):
    yield from chat_server(monkeypatch)


def judged_by(config: str, server) -> str:
    """The same config with an endpoint as judge."""
    path = Path(config) / "config.yaml"
    content = yaml.safe_load(path.read_text())
    arguments = {"model": "the-judge", "base_url": server.url, "cache": f"{config}/answers.jsonl", "backoff": 0.001}
    template = "{prompt}|{first}|{second}"
    judge = {"class_path": "LLMJudge", "init_args": arguments | {"template": template, "max_retries": 1}}
    content["model"]["init_args"]["judge"] = judge
    content["trainer"]["logger"] = True
    content["model"]["init_args"]["optimizer"]["init_args"]["lr"] = 0.005
    write_yaml(path, content)
    return config


def all_text(folder: Path) -> str:
    """Everything that files hold, and what Parquet files hold when they are unpacked."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    tables = [path for path in files if path.suffix == ".parquet"]
    unpacked = [json.dumps([pq.read_table(path).to_pylist(), str(pq.read_schema(path).metadata)]) for path in tables]
    return "\n".join([*(path.read_bytes().decode("latin-1") for path in files), *unpacked, *map(str, files)])


def test_a_run_with_a_key_in_the_environment_writes_it_nowhere(tiny_model, pools, tmp_path, server, capfd, caplog):
    config = judged_by(write_config(tmp_path, tiny_model, pools), server)
    fair, asked = server.reply, []

    def reply(question):
        asked.append(question)
        return (400, f"the key {KEY} may not ask this".encode()) if len(asked) % 3 == 0 else fair(question)

    server.reply = reply
    with caplog.at_level(logging.DEBUG):
        run = main(["fit", "-c", config])
    folder = Path(run.trainer.default_root_dir)
    written = all_text(tmp_path)
    assert all(f"Bearer {KEY}" == headers["Authorization"] for _, headers, _ in server.requests)
    assert {"config.yaml", "metrics.csv", "versions.json"} <= {path.name for path in folder.iterdir()}
    assert "OPENAI_API_KEY" in written  # the name is known: what is read is what was written
    said = "".join(capfd.readouterr())
    assert "comparisons missing (status 400: the key *** may not ask this" in caplog.text
    assert KEY not in written + said + caplog.text


def test_a_key_in_the_place_of_its_variables_name_is_refused_unseen_and_unwritten(
    tiny_model, pools, tmp_path, monkeypatch, capsys
):
    arguments = ["--model.judge", "LLMJudge", "--model.judge.model", "m", "--model.judge.api_key_env", KEY]
    line = refusal(monkeypatch, capsys, "fit", "-c", write_config(tmp_path, tiny_model, pools), *arguments)
    assert "judge.api_key_env must be the name of an environment variable" in line
    assert KEY not in line
    assert not (tmp_path / "runs").exists() or KEY not in all_text(tmp_path / "runs")


@pytest.fixture
def booby_trapped(tiny_model, tmp_path) -> Path:
    """A model whose config and tokenizer name code of their own, which leaves a trace if it is run."""
    folder = tmp_path / "trap"
    shutil.copytree(tiny_model, folder)
    code = f"open({str(tmp_path / 'sprung')!r}, 'w')\nfrom transformers import PretrainedConfig\n"
    code += "class Trap(PretrainedConfig):\n    model_type = 'trap'\n"
    (folder / "trap.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "trap.Trap", "AutoModelForCausalLM": "trap.Trap"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "trap", "auto_map": auto_map}))
    return folder


@pytest.mark.parametrize(
    "read",
    [
        lambda path: LanguageModel(path).context_length,
        lambda path: LanguageModel(path).load(),
        lambda path: RewardModel(path).check(),
        lambda path: PairRM(path).check(),
    ],
    ids=["policy's config", "policy", "reward model", "pair ranker"],
)
def test_code_that_comes_with_a_model_is_not_run_unless_its_author_is_trusted(booby_trapped, tmp_path, read):
    with pytest.raises(ValueError, match="trust_remote_code"):
        read(str(booby_trapped))
    assert not (tmp_path / "sprung").exists()


def test_trusting_the_author_runs_it(booby_trapped, tmp_path):
    with pytest.raises(Exception):  # noqa: B017, PT011  (it is no model)
        LanguageModel(str(booby_trapped), trust_remote_code=True).load()
    assert (tmp_path / "sprung").exists()


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def option(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg == name), None)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_unpickles_or_makes_code_of_data(path):
    for call in calls(path):
        name = name_of(call)
        if name == "torch.load":
            assert option(call, "weights_only") == "True", f"{path}:{call.lineno}"
        assert option(call, "shell") in (None, "False"), f"{path}:{call.lineno}"
        assert name not in CODE_FROM_DATA, f"{path}:{call.lineno}"
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in imported for alias in node.names} | {
        getattr(node, "module", "") for node in imported
    }
    assert not PICKLES & {str(module).split(".")[0] for module in modules}


def test_a_checkpoint_is_read_without_running_what_is_pickled_in_it(tiny_model, pools, tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "sprung"), "w")

    config = write_config(tmp_path, tiny_model, pools)
    run = main(["fit", "-c", config])
    path = Path(run.trainer.default_root_dir) / "checkpoints" / "iteration-0001.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"history": Trap()}, path)
    with pytest.raises(ValueError, match=r"iteration-0001\.ckpt is refused"):
        main(["fit", "-c", config, "--ckpt_path", str(path), "--trainer.max_epochs", "2"])
    assert not (tmp_path / "sprung").exists()
