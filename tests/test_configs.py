"""Every config in the repository can begin: its keys exist, its classes build, its prompts are there and fit."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

from lit_align.cli import main
from lit_align.data.sources import checked, read
from lit_align.data.templates import content_id
from lit_align.models.language_model import LanguageModel
from lit_align.runs.trainer import Trainer
from tests.conftest import write_jsonl

ROOT = Path(__file__).parent.parent / "configs"
BANDITS = sorted((ROOT / "bandit").glob("*.yaml"))
PAPERS = sorted((ROOT / "papers").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "overlays").glob("*.yaml"))
REPLAY = ROOT / "algorithms" / "dpo_replay.yaml"
CONFIGS = sorted(set(ROOT.rglob("*.yaml")) - set(BANDITS) - set(PAPERS) - set(OVERLAYS) - {REPLAY})


@pytest.fixture
def begun(monkeypatch, tmp_path):
    """Runs the command line up to `fit`."""

    def fit(
        self, model, train_dataloaders=None, val_dataloaders=None, datamodule=None, ckpt_path=None, weights_only=None
    ):
        datamodule.trainer = self

    def load(self, device="cpu"):
        pytest.fail("weights were loaded")

    monkeypatch.setattr(Trainer, "fit", fit)
    monkeypatch.setattr(LanguageModel, "load", load)
    return lambda path, *more: main(["fit", "-c", str(path), "--trainer.default_root_dir", str(tmp_path), *more])


def test_there_are_configs():
    assert ROOT / "config.yaml" in CONFIGS
    assert ROOT / "bandit" / "wind.yaml" in BANDITS


@pytest.mark.parametrize("path", BANDITS, ids=lambda path: path.stem)
def test_a_game_runs_and_says_how_far_it_is_from_the_answer(path, tmp_path):
    every = "--trainer.check_val_every_n_epoch=1"
    options = ["--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "2", every]
    cli = main(["fit", "-c", str(path), *options, "--data.game.copies", "2"])
    first, *_, last = cli.model.history
    assert [row["iteration"] for row in cli.model.history] == [0, 1, 2]
    assert first["val/win_rate"] == pytest.approx(0.5)
    assert first["val/kl"] == pytest.approx(0, abs=1e-12)
    assert last["val/win_rate"] > 0.5
    assert last["val/sub_optimality"] < first["val/sub_optimality"]
    assert last["val/exploitability"] < first["val/exploitability"]
    drawn = [row.get("train/responses") for row in cli.model.history]
    enumerated = type(cli.model.sampler).__name__ == "Enumeration"
    size = cli.model.sampler.group_size * cli.datamodule.prompts_per_iteration
    assert drawn == ([None, None, None] if enumerated else [None, size, 2 * size])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_config_begins(path, begun, tmp_path):
    written = yaml.safe_load(path.read_text())
    pairs = write_jsonl(
        tmp_path / "pairs.jsonl", [{"prompt": f"{i}?", "chosen": "a", "rejected": "b"} for i in range(8)]
    )
    cli = begun(path, *([] if "train" in written["data"]["init_args"] else ["--data.train", pairs]))
    assert type(cli.model).__name__ == written["model"]["class_path"].rpartition(".")[2]
    assert Path(cli.trainer.default_root_dir).parent == tmp_path
    cli.datamodule.check_divisible()
    sources = {name: source for name, source in cli.datamodule.sources.items() if source is not None}
    rows = {name: list(checked(read(s, cli.datamodule.columns), name)) for name, s in sources.items()}
    assert len(rows["train"]) >= cli.datamodule.prompts_per_iteration
    ids = {name: {content_id(row) for row in some} for name, some in rows.items()}
    assert not ids["train"] & ids.get("heldout", set())
    assert not ids["train"] & ids.get("test", set())


def test_a_replay_begins_with_the_budget_of_the_run_it_names(begun, tmp_path):
    rollouts = tmp_path / "rollouts" / "iteration-0000-rank0.parquet"
    rollouts.parent.mkdir()
    pq.write_table(pa.table({"record": [""] * 16}), rollouts)
    cli = begun(REPLAY, "--data.path", str(tmp_path))
    recorded = yaml.safe_load((ROOT / "algorithms" / "wind.yaml").read_text())
    assert cli.datamodule.prompts_per_iteration == recorded["data"]["init_args"]["prompts_per_iteration"]
    assert cli.trainer.max_epochs <= recorded["trainer"]["max_epochs"]
    cli.datamodule.check_divisible()
    policy = recorded["model"]["init_args"]["policy"]["init_args"]
    assert (cli.model.policy.name, cli.model.policy.system) == (policy["name"], policy["system"])


def test_a_folder_means_its_config(begun):
    by_folder, by_file = begun(ROOT), begun(ROOT / "config.yaml")
    assert by_folder.config.fit.model.as_dict() == by_file.config.fit.model.as_dict()


def test_what_is_written_is_what_is_built(begun):
    cli = begun(ROOT / "config.yaml")
    written = yaml.safe_load((ROOT / "config.yaml").read_text())
    model = written["model"]["init_args"]
    assert (cli.model.beta, cli.model.eta) == (model["beta"], model["eta"])
    assert cli.model.policy.name == model["policy"]["init_args"]["name"]
    assert cli.model.sampler.group_size == model["sampler"]["group_size"]
    assert sorted(cli.model.evaluator.judges) == sorted(model["eval_judges"])
    assert cli.trainer.max_epochs == written["trainer"]["max_epochs"]
    assert cli.datamodule.batch_size == written["data"]["init_args"]["batch_size"]


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_published_setting_parses_and_steps_on_batches_of_64(path, begun):
    cli = begun(path, "--trainer.devices", "1", "--trainer.accelerator", "cpu")
    written = yaml.safe_load(path.read_text())
    devices = written["trainer"]["devices"]
    assert devices * cli.trainer.accumulate_grad_batches * cli.datamodule.batch_size == 64
    assert cli.datamodule.prompts_per_iteration % 64 == 0
    steps = cli.datamodule.prompts_per_iteration // 64
    assert cli.model.warmup_steps == pytest.approx(steps / 10, abs=1)
    assert not cli.model.sampler.decoding.is_policy  # as published: T .7, top-p .9


def merged(begun, monkeypatch, base, overlay, *more):
    """The run that a config and an overlay describe, as if the machine had their GPUs."""
    for name, value in {
        "is_available": lambda: True,
        "parse_devices": lambda devices: list(range(int(devices))),
        "get_parallel_devices": lambda devices: [torch.device("cuda", device) for device in devices],
    }.items():
        monkeypatch.setattr(CUDAAccelerator, name, staticmethod(value))
    return begun(base, "-c", str(ROOT / "overlays" / f"{overlay}.yaml"), "--trainer.accelerator", "cuda", *more)


@pytest.mark.parametrize("base", [ROOT / "config.yaml", *PAPERS], ids=lambda path: path.stem)
@pytest.mark.parametrize("overlay", ["fsdp", "fsdp2", "qlora"])
def test_an_overlay_changes_what_it_names_and_keeps_the_rest(base, overlay, begun, monkeypatch):
    cli = merged(begun, monkeypatch, base, overlay)
    plain, model = (yaml.safe_load(path.read_text()) for path in (base, ROOT / "overlays" / f"{overlay}.yaml"))
    written, changed = plain["model"]["init_args"], model["model"]["init_args"]
    policy = changed["policy"]["init_args"]
    assert cli.model.policy.name == written["policy"]["init_args"]["name"]
    assert cli.model.sampler.group_size == written["sampler"]["group_size"]
    assert str(cli.model.policy.dtype) == f"torch.{policy['dtype']}"
    assert cli.model.policy.quantization == policy.get("quantization")
    recomputes = written["policy"]["init_args"].get("gradient_checkpointing", False)
    assert cli.model.policy.gradient_checkpointing == recomputes
    assert cli.trainer.precision == model["trainer"]["precision"]
    assert cli.trainer.num_devices == model["trainer"]["devices"]
    chosen = changed.get("optimizer", written["optimizer"])
    made = cli.model.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(made).__name__ == chosen["class_path"].rpartition(".")[2]
    assert made.param_groups[0]["lr"] == chosen["init_args"]["lr"]


@pytest.mark.parametrize(("overlay", "kind"), [("fsdp", FSDPStrategy), ("fsdp2", ModelParallelStrategy)])
def test_a_published_setting_fits_the_devices_of_a_sharded_run(overlay, kind, begun, monkeypatch):
    cli = merged(begun, monkeypatch, ROOT / "papers" / "wind_llama3_8b.yaml", overlay, "--trainer.devices", "4")
    assert type(cli.trainer.strategy) is kind
    assert cli.trainer.world_size == 4
    if kind is ModelParallelStrategy:
        assert cli.config.fit.trainer.strategy.init_args.data_parallel_size == 4


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_a_published_setting_steps_on_batches_of_64_on_a_single_gpu_too(path, begun, monkeypatch):
    cli = merged(begun, monkeypatch, path, "qlora", "--trainer.accumulate_grad_batches", "64")
    assert cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches == 64
    assert cli.model.policy.lora.rank == 64


def test_another_algorithm_on_the_command_line_keeps_the_rest(begun):
    cli = begun(ROOT / "config.yaml", "--model", "DPO")
    assert type(cli.model).__name__ == "DPO"
    assert cli.model.policy.lora.rank == 16


def test_a_second_file_trains_all_weights(begun, tmp_path):
    second = tmp_path / "full.yaml"
    second.write_text(yaml.safe_dump({"model": {"init_args": {"policy": {"init_args": {"lora": None}}}}}))
    assert begun(ROOT / "config.yaml", "-c", str(second)).model.policy.lora is None
