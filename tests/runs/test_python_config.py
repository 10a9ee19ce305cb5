"""A run that was made in Python leaves a config to export and to go on with, and notes in it what YAML cannot say."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from lit_align import DPO, WIND, Extrapolated, LanguageModel, LoRA, PromptPool, RewardFunction, Sampler
from lit_align.cli import main
from lit_align.iteration.python_config import apart, handed_over, said
from lit_align.run_folder import RunFolder
from tests.command_line import forbid_weights, refusal
from tests.conftest import happiness, prompts_of, write_jsonl
from tests.tiny_runs import build

SGD = partial(torch.optim.SGD, lr=0.05)


def happy(rollouts, texts):
    return 1.0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    heldout = prompts_of(4, offset=40)
    return {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "h.jsonl", heldout),
    }


@pytest.fixture(scope="module")
def sayable(tiny_model, files, tmp_path_factory):
    """A run of which YAML can say everything."""
    options = {
        "judge": RewardFunction(happiness),
        "optimizer": SGD,
        "anchor": Extrapolated(0.3),
        "metrics": {"a": happy},
    }
    run = build(tiny_model, files, tmp_path_factory.mktemp("sayable"), wind=options, accumulate_grad_batches=2).fit()
    return run, RunFolder(run.folder)


@pytest.fixture(scope="module")
def unsayable(tiny_model, tmp_path_factory):
    """A run with a judge that is a lambda, and rows that are a list."""
    options = {"judge": RewardFunction(lambda prompts, responses, records: [float(len(text)) for text in responses])}
    rows = {"train": prompts_of(16), "heldout": prompts_of(4, offset=40)}
    run = build(tiny_model, rows, tmp_path_factory.mktemp("unsaid"), wind=options, max_epochs=1).fit()
    return RunFolder(run.folder)


def config_of(folder):
    return yaml.safe_load(folder.config.read_text())


def test_the_config_says_what_the_run_was_built_with(sayable, tiny_model, files):
    run, folder = sayable
    config = config_of(folder)
    assert not handed_over(folder.config.read_text())
    assert config["seed_everything"] == 0
    trainer = config["trainer"]
    assert (trainer["max_epochs"], trainer["accumulate_grad_batches"], trainer["accelerator"]) == (2, 2, "cpu")
    assert Path(trainer["default_root_dir"]) == run.folder.parent
    model = config["model"]
    assert model["class_path"] == "lit_align.WIND"
    assert model["init_args"]["policy"]["init_args"]["name"] == str(tiny_model)
    assert model["init_args"]["policy"]["init_args"]["lora"]["init_args"]["rank"] == 4
    assert model["init_args"]["judge"]["init_args"]["function"] == "tests.conftest.happiness"
    assert model["init_args"]["sampler"]["init_args"]["group_size"] == 4
    assert model["init_args"]["anchor"] == {
        "class_path": "lit_align.Extrapolated",
        "init_args": {"alpha": 0.3, "rank": None},
    }
    assert model["init_args"]["optimizer"]["init_args"]["lr"] == 0.05
    assert model["init_args"]["metrics"] == {"a": f"{__name__}.happy"}
    assert config["data"]["init_args"]["train"] == files["train"]


def test_a_command_line_goes_on_with_it_as_the_same_run(sayable, capsys):
    run, folder = sayable
    options = ["--trainer.max_epochs", "3", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    cli = main(["fit", "-c", str(run.folder), "--ckpt_path", "last", *options])
    told = capsys.readouterr().err
    assert [line for line in told.splitlines() if " -> " in line] == ["  trainer.max_epochs: 2 -> 3"]
    assert Path(cli.trainer.default_root_dir) == run.folder
    assert [row["iteration"] for row in cli.model.history] == [0, 1, 2, 3]
    assert cli.model.anchor.alpha == 0.3
    assert cli.trainer.accumulate_grad_batches == 2
    assert len(folder.older_configs) == 1


@pytest.mark.slow
def test_it_is_exported(sayable, unsayable, tmp_path):
    for folder in (sayable[1], unsayable):
        main(["export", str(folder.path), "--output", str(tmp_path / folder.path.name)])
        assert (tmp_path / folder.path.name / "model.safetensors").is_file()


def test_what_no_config_can_say_is_told_of_in_a_line_that_names_the_setting(unsayable, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    named = handed_over(unsayable.config.read_text())
    assert named["model.judge.function"] == "a lambda"
    assert named["data.train"] == "a list of 16 rows"
    line = refusal(monkeypatch, capsys, "fit", "-c", str(unsayable.path))
    assert f"{unsayable.config}: model.judge.function was a lambda, handed over in Python" in line
    assert "--model.judge.function" in line


def test_what_is_given_in_the_place_of_what_no_config_can_say_is_taken(unsayable, files):
    instead = ["--model.judge.function", "tests.conftest.happiness", "--model.optimizer", "torch.optim.SGD"]
    instead += ["--model.optimizer.lr", "0.1", "--data.train", files["train"], "--data.heldout", files["heldout"]]
    cli = main(["plan", "-c", str(unsayable.path), *instead])
    assert cli.model.judge.name.endswith("happiness")
    another = ["--model.judge", "Sentiment", *instead[2:]]
    assert type(main(["plan", "-c", str(unsayable.path), *another]).model.judge).__name__ == "Sentiment"


@pytest.mark.slow
def test_a_plain_trainer_leaves_one_where_its_checkpoints_are_and_touches_no_file_of_another_kind(
    tiny_model, files, tmp_path, caplog
):
    def fit():
        policy = LanguageModel(tiny_model, lora=LoRA(rank=2))
        module = DPO(policy, RewardFunction(happiness), sampler=Sampler(group_size=2, max_new_tokens=4), optimizer=SGD)
        trainer = L.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_progress_bar=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
        )
        trainer.fit(module, PromptPool(**files, prompts_per_iteration=4))

    fit()
    config = config_of(RunFolder(tmp_path))
    assert config["model"]["class_path"] == "lit_align.DPO"
    main(["export", str(tmp_path), "--output", str(tmp_path / "exported")])
    RunFolder(tmp_path).config.write_text("mine: 1\n")
    fit()
    assert RunFolder(tmp_path).config.read_text() == "mine: 1\n"
    assert "is not of a run, and stays as it is" in caplog.text


def test_what_has_no_path_that_leads_to_it_is_noted():
    class Local(WIND):
        pass

    assert said(WIND)["class_path"] == "lit_align.WIND"
    assert said(happy) == f"{__name__}.happy"
    assert "Local" in apart({"x": said(Local)})[1]["x"]
    some = {"x": {"init_args": {"y": [said(lambda: 0)], "z": None}}, "t": said(torch.ones(1))}
    assert apart(some) == ({"x": {"init_args": {"z": None}}}, {"x.y": "a lambda", "t": "a Tensor"})
