"""However several processes are started, they are one run: one folder, one table, one file of predictions."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_align.callbacks.one_folder import is_first_process
from lit_align.cli import AlignmentCLI, main
from tests.command_line import write_config
from tests.strategies.finished import model_and_pools
from tests.strategies.two_processes import on_two_processes
from tests.tiny_runs import assert_same_metrics, lines

CONFIGS = Path(__file__).parents[2] / "configs"
OVERLAY = str(CONFIGS / "overlays" / "ddp.yaml")
SLOWLY = ["--model.optimizer.init_args.lr", "0.005"]  # lest rounding grow into another run
TWO = ["-c", OVERLAY, "--trainer.devices", "2", "--data.batch_size", "2"]


def run_of(root: Path) -> Path:
    """The one run folder there is."""
    (folder,) = root.iterdir()
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def fit_and_predict(config, folder, *options):
    """Align, then answer the held-out prompts; the folder as this process knows it."""
    cli = main(["fit", "-c", config, "--trainer.default_root_dir", folder, *SLOWLY, *options])
    cli.trainer.predict(cli.model, cli.datamodule)
    return cli.trainer.default_root_dir


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launch")
    return write_config(folder, *model_and_pools(folder))


@pytest.fixture(scope="module")
def one(config, tmp_path_factory):
    """What one process leaves."""
    return Path(fit_and_predict(config, str(tmp_path_factory.mktemp("one"))))


def assert_same_run(two, one):
    assert (two / "config.yaml").exists()
    assert (two / "model" / "model.safetensors").exists()
    assert_same_metrics(rows_of(two), rows_of(one))


def test_processes_of_torchrun_are_one_run(config, one, tmp_path):
    first, other = on_two_processes(fit_and_predict, config, str(tmp_path), *TWO)
    folder = run_of(tmp_path)
    assert first == other == str(folder)
    assert_same_run(folder, one)
    predicted = lines(folder / "predictions.jsonl")
    assert predicted == lines(one / "predictions.jsonl")
    assert [row["number"] for row in predicted] == list(range(40, 49))
    assert not list(folder.glob("predictions-*"))


@pytest.mark.slow
def test_processes_that_lightning_starts_are_one_run(config, one, tmp_path):
    command = [sys.executable, "-m", "lit_align", "fit", "-c", config, "--trainer.default_root_dir", str(tmp_path)]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *SLOWLY, *TWO], capture_output=True, text=True, env=alone)
    assert done.returncode == 0, done.stderr
    assert_same_run(run_of(tmp_path), one)
    assert done.stdout.count("run folder") == 1
    assert done.stdout.count("before:") == 3
    assert "sync_dist" not in done.stderr
    versions = json.loads((run_of(tmp_path) / "versions.json").read_text())
    assert "torch" in versions


@pytest.mark.slow
def test_adapters_on_four_bits_are_one_run_too(config, tmp_path):
    four_bits = ["--model.policy.quantization", "nf4", "--model.policy.lora.rank", "4"]
    alone = Path(fit_and_predict(config, str(tmp_path / "one"), *four_bits))
    first, other = on_two_processes(fit_and_predict, config, str(tmp_path / "two"), *TWO, *four_bits)
    assert first == other
    assert_same_run(Path(first), alone)


class Read(Exception):
    """A config has been read."""


def test_the_overlay_changes_how_a_run_is_started_and_nothing_else(monkeypatch):
    def stop(cli):
        raise Read(cli.config["fit"].as_dict())

    monkeypatch.setattr(AlignmentCLI, "instantiate_classes", stop)

    def config_of(*options):
        with pytest.raises(Read) as read:
            main(["fit", "-c", str(CONFIGS), *options])
        return read.value.args[0]

    plain, changed = config_of(), config_of("-c", OVERLAY)
    assert changed["trainer"].pop("strategy") == "ddp"
    different = [name for name, value in changed["trainer"].items() if plain["trainer"][name] != value]
    assert set(different) <= {"devices", "num_nodes"}
    for part in ("model", "data", "seed_everything"):
        assert changed[part] == plain[part]


@pytest.mark.parametrize(
    ("places", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, True),
        ({"RANK": "3", "LOCAL_RANK": "1", "GROUP_RANK": "1"}, False),
        ({"RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),  # the first process of the second node, which starts its own others
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "5"}, False),
    ],
)
def test_only_the_first_process_makes_a_folder(monkeypatch, places, first):
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first


def test_a_device_without_a_held_out_prompt_is_refused(config, tmp_path):
    with pytest.raises(Exception, match=r"data.heldout has 1 prompts for 2 devices, and each needs one"):
        on_two_processes(fit_and_predict, config, str(tmp_path), *TWO, "--data.heldout_limit", "1")
