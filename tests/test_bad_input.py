"""Bad input is refused in one clear line, and nothing expensive happens before it is."""

import shutil
from pathlib import Path

import pytest

from lit_align.models.language_model import LanguageModel
from tests import tiny_runs
from tests.command_line import forbid_weights, refusal, write_config
from tests.conftest import WORDS, prompts_of, write_jsonl


@pytest.fixture
def config(tmp_path, tiny_model, pools):
    return write_config(tmp_path, tiny_model, pools)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.init_args.betta", "1"], ["model.betta: there is no such setting; did you mean model.beta?"]),
        (["--data.trian", "x.jsonl"], ["did you mean data.train?"]),
        (["--trainer.max_epoch", "1"], ["did you mean trainer.max_epochs?"]),
        (["-c", "{trainer: {max_epoch: 1}}"], ["did you mean trainer.max_epochs?"]),
        (["--optimzer", "x"], ["did you mean model.optimizer?"]),
        (["--model", "WINDD"], ["model: there is no class or function 'WINDD'; did you mean WIND?"]),
        (["--trainer.iterations", "1"], ["iterations"]),
        (["--model.judge", "NoSuchJudge"], ["NoSuchJudge"]),
        (["--model.risk", "absolute"], ["absolute"]),
        (["--model.beta", "-0.5"], ["model.beta must be >= 0, got -0.5"]),
        (["--model.eta", "0"], ["model.eta must be > 0, got 0"]),
        (["--model.sampler.group_size", "1"], ["model.sampler.group_size is 1", "at least 2"]),
        (["--model.sampler.top_p", "2"], ["top_p"]),
        (["--model.judge.function", "no.such.function"], ["judge.function", "no.such.function"]),
        (["--data.batch_size", "0"], ["data.batch_size must be >= 1"]),
        (["--data.prompts_per_iteration", "7"], ["data.prompts_per_iteration (7)", "multiple", "try 8"]),
        (["--data.prompts_per_iteration", "20"], ["data.train has 16 prompts"]),
        (["--data.train", "nowhere.jsonl"], ["no file nowhere.jsonl"]),
        (["-c", "nowhere.yaml"], ["nowhere.yaml"]),
    ],
    ids=lambda value: value[0].removeprefix("--") if value[0].startswith("-") else "",
)
def test_a_setting_without_a_meaning_is_refused(config, monkeypatch, capsys, arguments, words):
    forbid_weights(monkeypatch)
    line = refusal(monkeypatch, capsys, "fit", "-c", config, *arguments)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*prompts_of(8), {"prompt": "  ", "number": 99}], ["data.train", "row 8", "empty"]),
        ([*prompts_of(8), prompts_of(3)[2]], ["rows 2 and 8", "remove one"]),
        (prompts_of(8, offset=38), ["data.heldout", "in data.train too"]),
        ([*prompts_of(8), {"prompt": " ".join(WORDS * 6), "number": 99}], ["context of 128", "max_new_tokens"]),
        ([{"question": "good"}], ["neither a `prompt` nor a `messages` column", "question"]),
    ],
    ids=["empty", "duplicate", "held out too", "too long", "no prompt column"],
)
def test_data_that_cannot_be_used_is_refused(config, tmp_path, monkeypatch, capsys, rows, words):
    forbid_weights(monkeypatch)
    line = refusal(monkeypatch, capsys, "fit", "-c", config, "--data.train", write_jsonl(tmp_path / "bad.jsonl", rows))
    assert all(word in line for word in words), line


def test_chats_for_a_model_without_a_chat_template_are_refused(config, tmp_path, tiny_base_model, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    chats = [{"messages": [{"role": "user", "content": row["prompt"]}]} for row in prompts_of(8)]
    train = write_jsonl(tmp_path / "chats.jsonl", chats)
    line = refusal(
        monkeypatch, capsys, "fit", "-c", config, "--model.policy.name", tiny_base_model, "--data.train", train
    )
    assert "no chat template" in line


def test_a_judge_that_raises_costs_no_responses(config, tmp_path, monkeypatch, capsys):
    drawn = []
    original = LanguageModel.sample

    def counting(self, prompts, uniforms, decoding, source, at_once=0):
        drawn.append(uniforms.shape[1])
        return original(self, prompts, uniforms, decoding, source, at_once)

    monkeypatch.setattr(LanguageModel, "sample", counting)
    monkeypatch.setattr(tiny_runs, "grumbling", True)
    arguments = ("fit", "-c", config, "--model.judge.function", "tests.tiny_runs.grumpy")
    line = refusal(monkeypatch, capsys, *arguments)
    assert all(
        word in line for word in ("tests.tiny_runs.grumpy raised KeyError", "sample ", "prompt ", "response ")
    ), line
    assert drawn == [4]
    (run,) = (tmp_path / "runs").iterdir()
    assert (run / "rollouts" / "iteration-0000-rank0.parquet").exists()

    monkeypatch.setattr(tiny_runs, "grumbling", False)
    from lit_align.cli import main

    main([*arguments, "--trainer.run", str(run)])
    assert drawn == [4, 1, 1]  # two evaluations, and no group again
    assert (run / "metrics.csv").exists()


def test_a_mistake_leaves_no_run_folder(config, tmp_path, monkeypatch, capsys):
    refusal(monkeypatch, capsys, "fit", "-c", config, "--model.beta", "-1")
    assert not (tmp_path / "runs").exists()


def test_a_run_that_is_not_there_is_refused(config, tmp_path, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    missing = str(tmp_path / "missing")
    assert missing in refusal(monkeypatch, capsys, "fit", "-c", config, "--trainer.run", missing)
    assert not Path(missing).exists()


def test_a_model_that_is_not_there_is_refused(config, tmp_path, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    name = str(tmp_path / "no-model")
    shutil.rmtree(name, ignore_errors=True)
    assert "no-model" in refusal(monkeypatch, capsys, "fit", "-c", config, "--model.policy.name", name)
