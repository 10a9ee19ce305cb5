"""Going on with a run: the right one, from a checkpoint that is whole, with what has changed said or refused."""

import csv
import importlib
import os
import shutil
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import EarlyStopping

import lit_align
from lit_align.cli import main
from lit_align.runs.resume import differences
from tests.command_line import forbid_weights, refusal, write_config
from tests.conftest import make_model, prompts_of, write_jsonl
from tests.kills.processes import final_state
from tests.tiny_runs import assert_same_weights

ITERATIONS = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A config, and the folder of its run of three iterations."""
    folder = tmp_path_factory.mktemp("finished")
    pools = {
        "train": write_jsonl(folder / "train.jsonl", prompts_of(16)),
        "heldout": write_jsonl(folder / "heldout.jsonl", prompts_of(8, offset=40)),
    }
    config = write_config(folder, str(make_model(folder / "model")), pools)
    cli = main(["fit", "-c", config, "--trainer.max_epochs", str(ITERATIONS), *SOFT])
    return config, Path(cli.trainer.default_root_dir)


SOFT = ("--model.policy.lora.dropout", "0.2")


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it that may be gone on with, as the command line to do so."""
    config, folder = finished
    copied = tmp_path / "runs" / folder.name
    shutil.copytree(folder, copied, symlinks=True)
    return copied, ["-c", config, "--trainer.default_root_dir", str(copied.parent), *SOFT]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": (2, 3)}),
        (
            {"m": {"class_path": "X", "init_args": {"k": 1}}},
            {"m": {"class_path": "Y", "init_args": {"k": 1}}},
            {"m": ("X", "Y")},
        ),
        ({"m": None}, {"m": {"class_path": "Y", "init_args": {"k": 1}}}, {"m": (None, "Y"), "m.k": (None, 1)}),
        (
            {"trainer": {"run": "a", "logger": True}, "ckpt_path": "b"},
            {"trainer": {"run": None, "logger": {"x": 1}}},
            {},
        ),
        ({"trainer": {"runs": 1}}, {"trainer": {"runs": 2}}, {"trainer.runs": (1, 2)}),
    ],
)
def test_differences_are_of_what_is_run_not_of_where_it_is_put(old, new, changed):
    assert differences(old, new) == changed
    assert differences(new, old) == {name: (b, a) for name, (a, b) in changed.items()}


def of_class(path):
    return {"model": {"class_path": path, "init_args": {"beta": 0.1}}, "trainer": {"plugins": [{"class_path": path}]}}


OTHERS = [
    "lightning.pytorch.callbacks.EarlyStopping",
    "lightning.pytorch.callbacks.early_stopping.EarlyStopping",
    "tests.runs.test_resume.AlsoEarlyStopping",
]
AlsoEarlyStopping = EarlyStopping


@pytest.mark.parametrize("old", ["WIND", "lit_align.WIND", "lit_align.algorithms.wind.WIND", "lit_align.gone.WIND"])
@pytest.mark.parametrize("new", ["WIND", "lit_align.algorithms.WIND", "lit_align.algorithms.wind.WIND"])
def test_a_public_class_is_the_same_under_every_path_that_it_has_or_had(old, new):
    assert differences(of_class(old), of_class(new)) == {}


@pytest.mark.parametrize("old", OTHERS)
@pytest.mark.parametrize("new", OTHERS)
def test_a_class_of_others_is_what_its_path_imports(old, new):
    assert differences(of_class(old), of_class(new)) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("WIND", "lit_align.DPO"),
        ("lit_align.WIND", "lit_alignment.WIND"),
        ("lit_align.WIND", "tests.runs.test_resume.WIND"),
        ("torch.optim.SGD", "torch.optim.Adam"),
        ("nowhere.SGD", "torch.optim.SGD"),
        ("nowhere.SGD", "elsewhere.SGD"),
        ("SGD", "torch.optim.SGD"),
    ],
)
def test_another_class_is_a_difference_told_as_it_is_spelled(old, new):
    assert differences(of_class(old), of_class(new))["model"] == (old, new)
    assert differences(of_class(old), of_class(old)) == {}


def test_last_goes_on_with_the_run_of_the_same_config(run, capsys):
    folder, arguments = run
    cli = main(["fit", *arguments, "--ckpt_path", "last", "--trainer.max_epochs", str(ITERATIONS + 1)])
    assert Path(cli.trainer.default_root_dir) == folder
    assert [row["iteration"] for row in cli.model.history] == [0, 1, 2, 3, 4]
    said = capsys.readouterr().err
    assert f"going on with {folder} from iteration-0003.ckpt" in said
    assert f"trainer.max_epochs: {ITERATIONS} -> {ITERATIONS + 1}" in said


def test_a_finished_run_that_is_gone_on_with_draws_and_judges_nothing(run, monkeypatch):
    from lit_align import LanguageModel

    folder, arguments = run
    before = (folder / "metrics.csv").read_bytes()
    monkeypatch.setattr(LanguageModel, "sample", lambda *args: pytest.fail("responses were drawn"))
    main(["fit", *arguments, "--ckpt_path", "last", "--trainer.max_epochs", str(ITERATIONS)])
    assert (folder / "metrics.csv").read_bytes() == before
    assert len(list((folder / "rollouts").iterdir())) == ITERATIONS


def test_last_names_the_nearest_run_where_none_is_the_same(run, monkeypatch, capsys):
    folder, arguments = run
    forbid_weights(monkeypatch)
    said = refusal(monkeypatch, capsys, "fit", *arguments, "--ckpt_path", "last", "--model.beta", "0.9")
    assert all(words in said for words in (folder.name, "model.beta is 0.2, not 0.9", f"--ckpt_path {folder}")), said


def test_last_without_any_run_is_refused(finished, tmp_path, monkeypatch, capsys):
    forbid_weights(monkeypatch)
    root = ["--trainer.default_root_dir", str(tmp_path / "empty")]
    assert "there is no run under" in refusal(
        monkeypatch, capsys, "fit", "-c", finished[0], "--ckpt_path", "last", *root
    )
    assert not (tmp_path / "empty").exists()


def test_a_changed_setting_is_told_honoured_and_written_down(run, capsys):
    folder, arguments = run
    checkpoint = str(folder / "checkpoints" / "iteration-0002.ckpt")
    old = (folder / "config.yaml").read_text()
    cli = main(["fit", *arguments, "--ckpt_path", checkpoint, "--model.beta", "0.9", "--trainer.max_epochs", "3"])
    assert "  model.beta: 0.2 -> 0.9\n" in capsys.readouterr().err
    assert cli.model.beta == 0.9
    assert (folder / "config-1.yaml").read_text() == old
    new = yaml.safe_load((folder / "config.yaml").read_text())
    assert new["model"]["init_args"]["beta"] == 0.9
    assert (new["ckpt_path"], new["trainer"]["run"]) == (None, None)  # `-c RUN` is a new run still


@pytest.mark.slow
def test_what_a_changed_setting_makes_stale_is_drawn_again(run, tmp_path):
    folder, arguments = run
    clean = tmp_path / "clean" / folder.name
    shutil.copytree(folder, clean, symlinks=True)
    (clean / "rollouts" / "iteration-0002-rank0.parquet").unlink()
    for iteration in (2, 3):
        (clean / "evaluation" / f"heldout-{iteration:04d}-rank0.parquet").unlink()
    rows = []
    for place in (folder, clean):
        checkpoint = place / "checkpoints" / "iteration-0001.ckpt"
        shutil.copy(_first_checkpoint(place, arguments), checkpoint)
        main(["fit", *arguments, "--ckpt_path", str(checkpoint), "--model.eta", "3", "--trainer.max_epochs", "3"])
        rows.append((place / "metrics.csv").read_text())
    assert rows[0] == rows[1]


def _first_checkpoint(place, arguments):
    """Of iteration 1, which the run has long removed."""
    cli = main(
        ["fit", *arguments, "--trainer.max_epochs", "1", "--trainer.default_root_dir", str(place.parent / "one")]
    )
    return Path(cli.trainer.default_root_dir) / "checkpoints" / "iteration-0001.ckpt"


def test_rollouts_of_another_judge_are_judged_again_not_drawn_again(run, monkeypatch):
    from lit_align import LanguageModel

    folder, arguments = run
    checkpoint = str(folder / "checkpoints" / "iteration-0002.ckpt")
    drawn = []
    sample = LanguageModel.sample
    monkeypatch.setattr(LanguageModel, "sample", lambda self, *rest: drawn.append(1) or sample(self, *rest))
    old = _rewards(folder)[3]
    judge = ["--model.judge.function", "tests.tiny_runs.sadness", "--trainer.max_epochs", "3"]
    cli = main(["fit", *arguments, "--ckpt_path", checkpoint, *judge])
    assert cli.model.history[3]["train/reward"] == pytest.approx(-old)
    assert len(drawn) == 1  # held-out prompts, by a policy that has learned something else


def _rewards(folder):
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/reward"] or "nan") for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--model.policy.name", "{other}"], "the model (its weights, dtype or quantization) changed"),
        (["--model.policy.dtype", "bfloat16"], "the model (its weights, dtype or quantization) changed"),
        (["--model.policy.system", "be nice"], "the chat template or system message changed"),
        (["--model.policy.lora.rank", "8"], "policy.lora changed"),
        (["--data.train", "{pool}"], "the prompts of data.train changed"),
        (["--data.heldout", "{pool}"], "the prompts of data.heldout changed"),
        (["--data.prompts_per_iteration", "4"], "which deal the prompts changed"),
        (["--seed_everything", "1"], "which deal the prompts changed"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_another_model_or_pool_is_refused_before_weights_load(run, tmp_path, monkeypatch, capsys, change, words):
    folder, arguments = run
    forbid_weights(monkeypatch)
    made = {
        "other": str(make_model(tmp_path / "other", seed=1)),
        "pool": write_jsonl(tmp_path / "p.jsonl", prompts_of(12, 100)),
    }
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    said = refusal(
        monkeypatch, capsys, "fit", *arguments, "--ckpt_path", checkpoint, *(c.format(**made) for c in change)
    )
    assert words in said


def test_a_checkpoint_that_left_its_folder_is_still_of_its_run(run, tmp_path, monkeypatch, capsys):
    folder, arguments = run
    alone = tmp_path / "iteration-0003.ckpt"
    shutil.copy(folder / "checkpoints" / "iteration-0003.ckpt", alone)
    said = refusal(monkeypatch, capsys, "fit", *arguments, "--ckpt_path", str(alone), "--seed_everything", "1")
    assert "the checkpoint's run cannot go on: seed_everything" in said


def test_a_damaged_checkpoint_outside_its_run_is_refused_and_begins_no_new_run(run, tmp_path, monkeypatch, capsys):
    folder, arguments = run
    alone = tmp_path / "mine.ckpt"
    alone.write_bytes((folder / "checkpoints" / "iteration-0003.ckpt").read_bytes()[:-1000])
    said = refusal(monkeypatch, capsys, "fit", *arguments, "--ckpt_path", str(alone))
    assert f"ckpt_path: {alone} is damaged" in said
    assert list(folder.parent.iterdir()) == [folder]


def test_a_run_folder_stands_for_its_last_checkpoint(run):
    folder, arguments = run
    cli = main(["validate", *arguments, "--ckpt_path", str(folder)])
    assert cli.trainer.ckpt_path == str(folder / "checkpoints" / "iteration-0003.ckpt")


def test_looking_at_a_run_asks_for_its_model_alone(run, tmp_path, monkeypatch, capsys):
    folder, arguments = run
    mine = write_jsonl(tmp_path / "mine.jsonl", prompts_of(3, 90))
    main(
        [
            "predict",
            *arguments,
            "--ckpt_path",
            "last",
            "--data.test",
            mine,
            "--model.beta",
            "0.7",
            "--seed_everything",
            "5",
        ]
    )
    other = str(make_model(tmp_path / "other", seed=1))
    last = ["--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
    forbid_weights(monkeypatch)
    assert "the model (its" in refusal(monkeypatch, capsys, "validate", *arguments, *last, "--model.policy.name", other)


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_ends_at_the_same_bits(run, caplog):
    folder, arguments = run
    newest = folder / "checkpoints" / "iteration-0003.ckpt"
    state, rows = final_state(folder), (folder / "metrics.csv").read_bytes()
    os.truncate(newest, newest.stat().st_size // 2)
    cli = main(["fit", *arguments, "--ckpt_path", "last", "--trainer.max_epochs", str(ITERATIONS)])
    assert f"{newest} is damaged" in caplog.text
    assert "iteration-0002.ckpt" in str(cli.trainer.ckpt_path)
    assert (folder / "metrics.csv").read_bytes() == rows
    assert_same_weights(final_state(folder), state)


def test_damaged_rollouts_are_named_and_collected_again(run, caplog):
    folder, arguments = run
    (folder / "checkpoints" / "iteration-0003.ckpt").unlink()
    files = [folder / "rollouts" / "iteration-0002-rank0.parquet", folder / "evaluation" / "heldout-0003-rank0.parquet"]
    files.append(folder / "evaluation" / "heldout-0000-rank0.parquet")
    before = {path: path.read_bytes() for path in [*files[:2], folder / "metrics.csv"]}
    for path in files:
        path.write_bytes(path.read_bytes()[:-100])
    main(["fit", *arguments, "--ckpt_path", "last", "--trainer.max_epochs", str(ITERATIONS)])
    assert all(f"{path} is damaged" in caplog.text for path in files)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.slow
def test_where_no_checkpoint_is_whole_a_run_begins_with_its_rollouts_and_a_look_at_it_is_refused(
    run, monkeypatch, capsys
):
    folder, arguments = run
    rows = (folder / "metrics.csv").read_bytes()
    for path in (folder / "checkpoints").glob("iteration-*"):
        path.write_bytes(b"")
    last = ["--ckpt_path", "last", "--trainer.max_epochs", str(ITERATIONS)]
    assert "there is no checkpoint before it" in refusal(monkeypatch, capsys, "validate", *arguments, *last)
    main(["fit", *arguments, *last])
    assert "from the beginning" in capsys.readouterr().err
    assert (folder / "metrics.csv").read_bytes() == rows


def test_the_default_optimiser_is_found_under_the_path_of_older_configs():
    old, new = ({"model": {"optimizer": path}} for path in ("lit_align.algorithms.base.adamw", "lit_align.adamw"))
    assert differences(old, new) == {}
    assert importlib.import_module("lit_align.algorithms.base").adamw is lit_align.adamw


def test_a_text_that_is_no_class_is_never_imported(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    old, new = ({"data": {"train": name}} for name in ("train.jsonl", "train.csv"))
    assert differences(old, new) == {"data.train": ("train.jsonl", "train.csv")}
