"""Configs in layers: files in their order, what is typed over all of them, and an overlay never alone."""

from pathlib import Path

import pytest

from lit_align.overlays import check_whole, in_order
from tests.command_line import forbid_weights, refusal, write_config, write_yaml

ROOT = Path(__file__).parents[1]
MODEL = ["--model.policy.name", "mine", "--model.judge", "Sentiment", "--data.train", "mine.jsonl"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fit --model.beta 1 -c A -c B", "fit -c A -c B --model.beta 1"),
        ("fit --config=A --x 1 --config B", "fit --config=A --config B --x 1"),
        ("fit -c A --model.beta -0.5 --model DPO", "fit -c A --model DPO --model.beta -0.5"),
        (
            "fit -c A --model.judge.f 1 --data.x 2 --model.judge F",
            "fit -c A --model.judge F --model.judge.f 1 --data.x 2",
        ),
        (
            "fit --model.init_args.judge.f=1 --model.judge.class_path=F",
            "fit --model.judge.class_path=F --model.init_args.judge.f=1",
        ),
        ("fit --model.a.b 1 --model.a A --model M", "fit --model M --model.a A --model.a.b 1"),
        (
            "fit --trainer.callbacks A --trainer.callbacks.x 1 --trainer.callbacks+=B",
            "fit --trainer.callbacks A --trainer.callbacks.x 1 --trainer.callbacks+=B",
        ),
        ("export RUN --output DIR", "export RUN --output DIR"),
        ("-c A fit --x 1", "-c A fit --x 1"),
        ("--help", "--help"),
        ("", ""),
    ],
)
def test_files_come_first_and_classes_before_their_arguments(typed, meant):
    assert in_order(typed.split()) == meant.split()
    assert in_order(meant.split()) == meant.split()


@pytest.mark.parametrize("path", ["algorithms/sppo.yaml", "overlays/toy.yaml", "overlays/qlora.yaml"])
@pytest.mark.parametrize("command", ["fit", "validate", "plan"])
def test_an_overlay_alone_is_refused_with_the_command_that_works(path, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    typed = [command, "-c", f"configs/{path}", "--trainer.max_epochs", "3"]
    with pytest.raises(ValueError, match=f"configs/{path} is laid over a whole config") as refused:
        check_whole(typed)
    said = str(refused.value)
    whole = f"{command} -c configs/ -c configs/{path} --trainer.max_epochs 3"
    assert said.endswith(f": python -m lit_align {whole}")
    check_whole(whole.split())


@pytest.mark.parametrize(("stem", "lacks"), [("dpo_offline", "--data.train TRAIN"), ("dpo_replay", "--data.path PATH")])
def test_the_command_that_works_names_the_data_that_an_overlay_is_about(stem, lacks, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=f"configs/ -c configs/algorithms/{stem}.yaml {lacks}$"):
        check_whole(["fit", "-c", f"configs/algorithms/{stem}.yaml"])


def test_the_whole_config_is_found_from_wherever_one_is(monkeypatch):
    monkeypatch.chdir(ROOT / "configs" / "algorithms")
    with pytest.raises(ValueError, match=r"fit -c \.\./ -c sppo.yaml$"):
        check_whole(["fit", "-c", "sppo.yaml"])
    absolute = str(ROOT / "configs" / "algorithms" / "sppo.yaml")
    with pytest.raises(ValueError, match=f"fit -c {ROOT}/configs/ -c {absolute}$"):
        check_whole(["fit", "-c", absolute])


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ([], "--model.policy.name, --data.train, --model.judge"),
        (MODEL[:2], "--data.train, --model.judge"),
        (MODEL[2:], "--model.policy.name"),
        (["--data", "PairData"], "--model.policy.name, --data.train"),
        (["--data.train", "x.jsonl", "--data=PairData"], "--model.policy.name"),
        (["-c", "configs/algorithms/dpo_offline.yaml"], "--model.policy.name, --data.train"),
        (["-c", "configs/algorithms/dpo_replay.yaml", "--data.train=x"], "--model.policy.name, --data.path"),
    ],
)
def test_the_base_alone_says_what_to_give(more, missing, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        ValueError, match=f"^configs/base.yaml leaves open what is yours: give {missing}, or another -c"
    ):
        check_whole(in_order(["fit", "-c", "configs/base.yaml", *more]))


@pytest.mark.parametrize(
    "typed",
    [
        ["fit", "-c", "configs/base.yaml", *MODEL],
        [
            "fit",
            "-c",
            "configs/base.yaml",
            *MODEL[:2],
            '--model.judge={"class_path": "Sentiment"}',
            '--data.train={"path": "x"}',
        ],
        [
            "fit",
            "-c",
            "configs/base.yaml",
            "-c",
            '{"model": {"init_args": {"judge": "Sentiment"}}}',
            *MODEL[:2],
            *MODEL[4:],
        ],
        ["fit", "-c", "configs/algorithms/sppo.yaml", "--model.policy", "LanguageModel", *MODEL],
        ["predict", "-c", "configs/base.yaml", "--model.policy.name", "mine"],  # nothing is trained
        ["fit", "-c", "configs/algorithms/sppo.yaml", "--help"],
        ["fit", "-c", "configs/bandit/sppo.yaml"],
        ["fit", "-c", "configs/papers/wind_llama3_8b.yaml"],
        ["fit", "-c", "configs/"],
        ["fit", "-c", "nowhere.yaml"],  # the parser says so
        ["fit"],
        [],
    ],
    ids=" ".join,
)
def test_what_says_enough_is_let_through(typed, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_whole(in_order(typed))


def test_the_refusal_is_one_line_before_anything_is_made(tmp_path, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    monkeypatch.chdir(tmp_path)
    mine = write_yaml(tmp_path / "mine.yaml", {"model": {"class_path": "DPO"}})
    line = refusal(monkeypatch, capsys, "fit", "-c", str(mine))
    works = f"python -m lit_align fit -c configs/ -c {mine}"
    assert line == f"error: {mine} is laid over a whole config, and there is none: {works}"
    assert list(tmp_path.iterdir()) == [mine]


def test_what_is_typed_wins_over_a_file_behind_it(tmp_path, tiny_model, pools, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    config = write_config(tmp_path, tiny_model, pools)
    line = refusal(monkeypatch, capsys, "fit", "--model.beta", "-1", "-c", config)
    assert "model.beta must be >= 0, got -1" in line
