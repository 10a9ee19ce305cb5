"""A config of the tiny model, and the command line in process."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_align.__main__ import run
from lit_align.models.language_model import LanguageModel


def write_config(folder: Path, model: str, pools: dict[str, str]) -> str:
    """A config of one iteration of the tiny model, in a folder of its own; returns the folder."""
    config = {
        "trainer": {
            "default_root_dir": str(folder / "runs"),
            "max_epochs": 1,
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "logger": False,
        },
        "model": {
            "class_path": "WIND",
            "init_args": {
                "beta": 0.2,
                "policy": {"class_path": "LanguageModel", "init_args": {"name": model, "lora": {"rank": 4}}},
                "judge": {"class_path": "RewardFunction", "init_args": {"function": "tests.conftest.happiness"}},
                "sampler": {"group_size": 4, "max_new_tokens": 8},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.05}},
            },
        },
        "data": {"class_path": "PromptPool", "init_args": {"prompts_per_iteration": 8, "batch_size": 4} | pools},
    }
    return write_yaml(folder / "config" / "config.yaml", config).parent.as_posix()


def write_yaml(path: Path, config: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(config))
    return path


def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What ``python -m lit_align`` says of a mistake: a status that is not 0, and one line short enough to read."""
    monkeypatch.setattr(sys, "argv", ["lit_align", *arguments])
    capsys.readouterr()
    try:
        status = run()
    except SystemExit as leaving:
        status = leaving.code
    said = capsys.readouterr().err
    assert status in (1, 2)
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert len(line) < 400, line
    assert "usage:" not in said
    return line


def forbid_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail the test if any weights are loaded."""
    monkeypatch.setattr(LanguageModel, "load", lambda self, device="cpu": pytest.fail("weights were loaded"))
