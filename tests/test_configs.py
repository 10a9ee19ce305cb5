"""Every config in the repository does what it says: algorithms train on any config below them, games are solved."""

import inspect
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy

import lit_align
from lit_align.cli import main
from lit_align.data.sources import checked, read
from lit_align.data.templates import content_id
from lit_align.models.language_model import LanguageModel
from lit_align.runs.trainer import Trainer
from tests.command_line import write_yaml
from tests.conftest import WORDS, make_model, prompts_of, write_jsonl

ROOT = Path(__file__).parent.parent / "configs"
BANDITS = sorted((ROOT / "bandit").glob("*.yaml"))
PAPERS = sorted((ROOT / "papers").glob("*.yaml"))
OVERLAYS = sorted((ROOT / "overlays").glob("*.yaml"))
ALGORITHMS = sorted((ROOT / "algorithms").glob("*.yaml"))
QUICKSTART, BASE, TOY = (ROOT / name for name in ("config.yaml", "base.yaml", "overlays/toy.yaml"))
A_FEW = {"bond", "dpo_offline", "sppo"}  # another sampler, other data, neither
OFTEN = A_FEW | {"accelerated_dpo", "dpo_replay", "jbond", "nash_md", "wind"}
VARIANTS = {"accelerated_sppo", "bond_approximate", "bond_approximate_mixing", "bond_exact", "wind_kl", "wind_nce"}


def slow(paths, when):
    return [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if when(path.stem) else []) for path in paths]


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
    assert {path.stem for path in ALGORITHMS} > OFTEN
    assert ROOT / "bandit" / "wind.yaml" in BANDITS
    assert TOY in OVERLAYS
    known = {*ALGORITHMS, *BANDITS, *PAPERS, *OVERLAYS, QUICKSTART, BASE}
    assert set(ROOT.rglob("*.yaml")) == known


@pytest.mark.parametrize("path", slow(BANDITS, VARIANTS.__contains__))
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


@pytest.mark.parametrize("path", ALGORITHMS, ids=lambda path: path.stem)
def test_an_algorithms_file_is_a_class_and_what_differs_from_its_defaults(path):
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 12
    comments = path.read_text().removesuffix("\n".join(lines))
    assert re.search(r"arXiv:\d{4}\.\d{5}", comments)
    assert f"-c configs/algorithms/{path.name}" in comments
    written = yaml.safe_load(path.read_text())
    assert set(written) <= {"trainer", "model", "data"}
    kind = getattr(lit_align, written["model"]["class_path"])
    defaults = {name: parameter.default for name, parameter in parameters(kind).items()}
    given = written["model"].get("init_args", {})
    assert not [name for name, value in given.items() if defaults.get(name) == value]


def parameters(kind):
    """Arguments of a class and of its bases, the class's own first."""
    found = {}
    for base in reversed(kind.__mro__[: kind.__mro__.index(lit_align.AlignmentModule) + 1]):
        if "__init__" in vars(base):
            found |= inspect.signature(base.__init__).parameters
    return found


@pytest.fixture(scope="module")
def yours(tmp_path_factory):
    """Writes a config of a tiny model and a few rows, to be laid over the others for a run of an iteration."""
    folder = tmp_path_factory.mktemp("yours")
    pairs = [{"prompt": f"{WORDS[i]} ?", "chosen": "good day", "rejected": "a bad day"} for i in range(4)]
    rows = {
        "dpo_offline": write_jsonl(folder / "pairs.jsonl", pairs),
        "others": write_jsonl(folder / "prompts.jsonl", prompts_of(4)),
    }
    record = {"class_path": "RunRecord", "init_args": {"export": False}}
    trainer = {"max_epochs": 1, "accelerator": "cpu", "callbacks": [record], "default_root_dir": str(folder / "runs")}
    trainer |= dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "check_memory"), False)
    model = str(make_model(folder / "model"))

    def write(stem, recorded, policy, **more):
        data = {"batch_size": 4, "heldout_limit": 4}
        data |= (
            {"path": recorded} if recorded else {"train": rows.get(stem, rows["others"]), "prompts_per_iteration": 4}
        )
        settings = {"policy": {"init_args": {"name": model} | policy}, "sampler": {"max_new_tokens": 4}} | more
        config = {"trainer": trainer, "model": {"init_args": settings}, "data": {"init_args": data}}
        return str(write_yaml(folder / "yours.yaml", config))

    return write


@pytest.fixture(scope="module")
def trained(yours):
    """Trains what an algorithm's file, the configs below it and yours above it describe."""

    def train(stem, *below, **more):
        recorded = None
        if stem == "dpo_replay":
            recorded = str(train("wind", *below, **more).trainer.default_root_dir)
        files = [*below, ROOT / "algorithms" / f"{stem}.yaml", yours(stem, recorded, **more)]
        return main(["fit", *(word for path in files for word in ("-c", str(path)))])

    return train


FUNCTION = {"class_path": "RewardFunction", "init_args": {"function": "tests.conftest.happiness"}}


def check_trained(cli, path):
    """It is the file's algorithm, its own settings are the file's or else its defaults, and the policy moved."""
    written = yaml.safe_load(path.read_text())["model"]
    kind = getattr(lit_align, written["class_path"])
    assert type(cli.model) is kind
    settings, common = cli.config.fit.model.init_args, inspect.signature(lit_align.AlignmentModule).parameters
    for name, parameter in parameters(kind).items():
        if name not in ({*common, "self"}) and parameter.kind is not parameter.VAR_KEYWORD:
            assert settings[name] == written.get("init_args", {}).get(name, parameter.default), name
    assert cli.model.history[-1]["iteration"] == 1
    assert math.isfinite(cli.trainer.callback_metrics["train/loss"])
    adapters = [weight for name, weight in cli.model.named_parameters() if "lora_B" in name and weight.requires_grad]
    assert any(weight.abs().sum() > 0 for weight in adapters)


@pytest.mark.parametrize("path", slow(ALGORITHMS, lambda stem: stem not in OFTEN))
def test_an_algorithms_file_trains_your_model_prompts_and_judge(path, trained):
    cli = trained(path.stem, BASE, policy={}, judge=FUNCTION)
    check_trained(cli, path)
    assert cli.model.policy.system is None
    assert cli.model.policy.lora.layers is None
    assert cli.model.judge.name.endswith("happiness")
    assert cli.model.optimizer([torch.nn.Parameter(torch.ones(1))]).param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize("path", slow(ALGORITHMS, lambda stem: stem not in A_FEW))
def test_an_algorithms_file_trains_at_the_toy_budget_of_the_quickstart(path, trained):
    cli = trained(path.stem, QUICKSTART, TOY, policy={"lora": {"layers": [0, 1]}})  # all that it has
    check_trained(cli, path)
    assert cli.model.policy.system == "Answer in one short sentence."
    assert type(cli.model.judge).__name__ == "Sentiment"
    assert list(cli.model.evaluator.judges) == ["afinn"]


def test_the_toy_budget_is_what_it_says(begun):
    cli = begun(QUICKSTART, "-c", str(TOY), "-c", str(ROOT / "algorithms" / "sppo.yaml"))
    assert (cli.trainer.max_epochs, cli.datamodule.prompts_per_iteration) == (2, 16)
    assert (cli.model.sampler.group_size, cli.model.sampler.max_new_tokens) == (8, 20)
    cli.datamodule.check_divisible()


def test_the_quickstarts_prompts_are_there_and_held_out(begun):
    cli = begun(QUICKSTART)
    cli.datamodule.check_divisible()
    sources = {name: source for name, source in cli.datamodule.sources.items() if source is not None}
    rows = {name: list(checked(read(s, cli.datamodule.columns), name)) for name, s in sources.items()}
    assert len(rows["train"]) >= cli.datamodule.prompts_per_iteration
    ids = {name: {content_id(row) for row in some} for name, some in rows.items()}
    assert not ids["train"] & ids["heldout"]


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


def test_a_second_file_trains_all_weights(begun, tmp_path):
    second = tmp_path / "full.yaml"
    second.write_text(yaml.safe_dump({"model": {"init_args": {"policy": {"init_args": {"lora": None}}}}}))
    assert begun(ROOT / "config.yaml", "-c", str(second)).model.policy.lora is None
