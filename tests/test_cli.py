"""The command line: what may be overridden, what a run folder is good for."""

import csv
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lit_align.cli import main
from lit_align.runs.trainer import Trainer
from tests.command_line import forbid_weights, refusal, write_config, write_yaml
from tests.conftest import make_model, prompts_of, write_jsonl
from tests.tiny_runs import lines


@pytest.fixture
def config(tmp_path, tiny_model, pools):
    return write_config(tmp_path, tiny_model, pools)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of one iteration."""
    folder = tmp_path_factory.mktemp("finished")
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(8, offset=40)),
        "test": write_jsonl(folder / "test.jsonl", prompts_of(4, offset=60)),
    }
    cli = main(["fit", "-c", write_config(folder, str(make_model(folder / "model")), pools)])
    return Path(cli.trainer.default_root_dir)


@pytest.fixture
def built(monkeypatch):
    """Parses and builds, and stops before `fit`."""
    forbid_weights(monkeypatch)

    def fit(
        self, model, train_dataloaders=None, val_dataloaders=None, datamodule=None, ckpt_path=None, weights_only=None
    ):
        self.asked_for = ckpt_path

    monkeypatch.setattr(Trainer, "fit", fit)
    return lambda *arguments: main(["fit", *arguments])


def metrics(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


FILES = {
    "lines.txt": "Name a day\nName a month\n",
    "column.csv": "prompt\nName a day\nName a month\n",
    "columns.csv": "prompt,answer\nName a day,Sunday\nName a month,May\n",
    "rows.jsonl": '{"prompt": "Name a day"}\n{"prompt": "Name a month"}\n',
    "array.json": '[{"prompt": "Name a day"}, {"prompt": "Name a month"}]\n',
}


def test_a_path_of_data_stays_a_path_and_null_is_null_wherever_they_are_typed(built, config, tmp_path):
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    text, column, columns, rows, array = (str(tmp_path / name) for name in FILES)
    overlay = write_yaml(tmp_path / "config" / "overlay.yaml", {"data": {"init_args": {"train": text}}})
    options = ["--data.heldout", column, "--data.test", array, "--model.policy.system", "null"]
    data = built("-c", config, "-c", str(overlay), *options, "--model.policy.lora=null").datamodule
    assert (data.sources["train"], data.sources["heldout"], data.sources["test"]) == (text, column, array)
    cli = built("-c", config, f"--data.train={columns}", "--data.heldout", "null", "--data.test", rows)
    assert (cli.datamodule.sources["train"], cli.datamodule.sources["heldout"]) == (columns, None)
    assert cli.datamodule.sources["test"] == rows


def test_null_is_null_for_an_argument_of_a_class_in_a_class(built, config):
    policy = built("-c", config, "--model.policy.system", "null", "--model.policy.init_args.lora=null").model.policy
    assert policy.system is None
    assert policy.lora is None


def test_a_run_leaves_its_config_its_versions_and_its_metrics(finished):
    assert finished.parent.name == "runs"
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["model"]["init_args"]["beta"] == 0.2
    assert config["model"]["init_args"]["eta"] == 1.0  # defaults are written out
    assert config["seed_everything"] == 0
    versions = json.loads((finished / "versions.json").read_text())
    assert {"python", "torch", "lightning", "transformers"} <= versions.keys()
    assert versions["torch"] == torch.__version__
    assert [row["iteration"] for row in metrics(finished)] == ["0", "1"]


def test_a_runs_config_runs_again_in_a_new_folder(finished):
    again = Path(main(["fit", "-c", str(finished)]).trainer.default_root_dir)
    assert again != finished
    assert again.parent == finished.parent
    assert (again / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()


def test_overrides_win_over_the_config(built, config, tmp_path, tiny_base_model):
    other = write_jsonl(tmp_path / "other.jsonl", prompts_of(9))
    cli = built(
        *("-c", config, "--model.beta", "0.1", "--model.sampler.group_size", "3", "--data.train", other),
        *("--trainer.max_epochs", "2", "--model.policy.name", tiny_base_model, "--model.optimizer.lr", "0.25"),
        *("--trainer.default_root_dir", str(tmp_path / "there"), "--data.batch_size", "2"),
    )
    assert (cli.model.beta, cli.model.sampler.group_size, cli.model.sampler.max_new_tokens) == (0.1, 3, 8)
    assert (cli.datamodule.sources["train"], cli.datamodule.batch_size) == (other, 2)
    assert cli.trainer.max_epochs == 2
    assert cli.model.policy.name == tiny_base_model
    assert cli.model.optimizer([torch.nn.Parameter(torch.ones(1))]).param_groups[0]["lr"] == 0.25
    assert cli.model.policy.lora.rank == 4
    assert Path(cli.trainer.default_root_dir).parent == tmp_path / "there"


def test_a_second_config_is_laid_over_the_first(built, config, tmp_path):
    second = {"model": {"init_args": {"beta": 0.3, "sampler": {"group_size": 5}}}, "trainer": {"max_epochs": 7}}
    cli = built("-c", config, "-c", str(write_yaml(tmp_path / "second.yaml", second)))
    assert (cli.model.beta, cli.model.sampler.group_size, cli.model.sampler.max_new_tokens) == (0.3, 5, 8)
    assert cli.trainer.max_epochs == 7


def test_interpolations_are_resolved_after_the_command_line(built, config, tmp_path):
    second = {"model": {"init_args": {"eta": "${model.init_args.beta}"}}}
    path = str(write_yaml(tmp_path / "second.yaml", second))
    assert built("-c", config, "-c", path).model.eta == 0.2
    assert built("-c", config, "-c", path, "--model.beta", "0.7").model.eta == 0.7


def test_a_run_goes_on_from_its_checkpoint_in_its_own_folder(built, finished, tmp_path):
    checkpoint = str(finished / "checkpoints" / "last.ckpt")
    root = str(tmp_path / "unused")
    cli = built("-c", str(finished), "--ckpt_path", checkpoint, "--trainer.default_root_dir", root)
    assert Path(cli.trainer.asked_for) == Path(checkpoint).resolve()
    assert Path(cli.trainer.default_root_dir) == finished
    assert not Path(root).exists()


def test_validate_gives_the_win_rate_against_the_initial_policy(finished):
    cli = main(["validate", "-c", str(finished), "--ckpt_path", str(finished / "checkpoints" / "last.ckpt")])
    assert Path(cli.trainer.default_root_dir) == finished
    logged, row = cli.trainer.callback_metrics, metrics(finished)[1]
    for name in ("val/win_rate", "val/win_rate_low", "val/win_rate_high", "val/kl", "val/reward"):
        assert float(logged[name]) == pytest.approx(float(row[name]), rel=1e-5)
    assert float(row["val/kl"]) > 0


def test_validate_without_a_checkpoint_is_about_the_initial_policy(config):
    logged = main(["validate", "-c", config]).trainer.callback_metrics
    assert float(logged["val/win_rate"]) == 0.5
    assert float(logged["val/kl"]) == 0.0


def test_test_uses_the_test_prompts(finished):
    cli = main(["test", "-c", str(finished), "--ckpt_path", str(finished / "checkpoints" / "last.ckpt")])
    assert 0 <= float(cli.trainer.callback_metrics["test/win_rate"]) <= 1
    assert (finished / "evaluation" / "test-0001-rank0.parquet").exists()
    assert len(cli.datamodule.test_dataloader().dataset[0]) == 4


def test_predict_writes_every_record_with_its_responses(finished):
    main(["predict", "-c", str(finished), "--ckpt_path", str(finished / "checkpoints" / "last.ckpt")])
    written = lines(finished / "predictions.jsonl")
    assert [{k: v for k, v in row.items() if k != "responses"} for row in written] == prompts_of(4, offset=60)
    assert all(len(row["responses"]) == 4 for row in written)
    assert any(text for row in written for text in row["responses"])


def test_the_last_checkpoint_is_found_under_the_root(finished):
    cli = main(["validate", "-c", str(finished), "--ckpt_path", "last"])
    newest = max(finished.parent.glob("*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    assert Path(cli.trainer.default_root_dir) == newest.parent.parent


def test_the_last_checkpoint_of_no_run_is_an_error(config, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    assert "no run with a checkpoint" in refusal(monkeypatch, capsys, "validate", "-c", config, "--ckpt_path", "last")


def test_the_package_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lit_align", "--help"])
    monkeypatch.delitem(sys.modules, "lit_align.__main__")
    with pytest.raises(SystemExit) as leaving:
        runpy.run_module("lit_align", run_name="__main__", alter_sys=True)
    assert leaving.value.code == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("fit", "validate", "test", "predict"))
