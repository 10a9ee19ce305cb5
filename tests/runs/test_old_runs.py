"""A run folder that an earlier version has left: this one goes on with it, and ends where that one did."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from lit_align import Replay, RewardFunction, Sampler
from lit_align.cli import main
from lit_align.run_folder import RunFolder

OLD = Path(__file__).parents[1] / "old_runs" / "version_0_1"
RUN = RunFolder(Path("run"))


@pytest.fixture(autouse=True)
def _in_a_copy(tmp_path, monkeypatch):
    """Its paths are relative to the folder it lies in."""
    shutil.copytree(OLD, tmp_path / "old", symlinks=True)
    monkeypatch.chdir(tmp_path / "old")


def rows_of(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]


def without_ends(row: dict[str, float]) -> dict[str, float]:
    """What a row says but for its intervals: they are found in another way now, and of more."""
    return {name: value for name, value in row.items() if not name.endswith(("_low", "_high"))}


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of which iteration each draw of responses will be."""
    iterations, respond = [], Sampler.respond
    monkeypatch.setattr(
        Sampler,
        "respond",
        lambda self, *args, iteration, **rest: (
            iterations.append(iteration) or respond(self, *args, iteration=iteration, **rest)
        ),
    )
    return iterations


def test_it_goes_on_and_ends_as_the_version_that_wrote_it(monkeypatch, capsys, caplog):
    iterations, before = drawn(monkeypatch), {path: path.read_bytes() for path in Path("run").rglob("*.parquet")}
    main(["fit", "-c", "run", "--ckpt_path", str(RUN.last), "--trainer.max_epochs", "3"])
    said = capsys.readouterr().err
    assert "going on with run from iteration-0002.ckpt\n  trainer.max_epochs: 2 -> 3\n" in said
    assert [line for line in said.splitlines() if " -> " in line] == ["  trainer.max_epochs: 2 -> 3"]
    assert iterations == [2, 3]  # to train on, and to evaluate what was trained
    assert sum("name their judge alone" in message for message in caplog.messages) == 1
    assert {path: path.read_bytes() for path in before} == before
    found, expected = rows_of(RUN.metrics), rows_of(Path("expected.csv"))
    assert [row["iteration"] for row in found] == [0, 1, 2, 3]
    for row, same in zip(found, expected, strict=True):
        gap, of_then = row.pop("train/sampling_gap"), same.pop("train/sampling_gap")
        assert without_ends(row) == pytest.approx(without_ends(same), rel=1e-4, abs=1e-6, nan_ok=True)
        assert gap == pytest.approx(of_then, abs=1e-4, nan_ok=True)  # rounding itself
    ends = [{name for name, value in row.items() if name.endswith("_low") and value == value} for row in found]
    assert ends[3] >= ends[2] | {"val/kl_low", "val/length_low", "val/reward_low"} > ends[2]


def test_the_same_config_in_the_words_of_today_finds_it(monkeypatch):
    iterations, old = drawn(monkeypatch), RUN.config.read_text()
    today = re.sub(r"lit_align\.\w+\.(\w+)", r"\1", old)
    assert today != old
    Path("today.yaml").write_text(today)
    Path("runs").mkdir()
    Path("run").rename("runs/old")
    cli = main(["fit", "-c", "today.yaml", "--ckpt_path", "last"])
    assert Path(cli.trainer.default_root_dir) == Path("runs/old").absolute()
    assert iterations == []


def test_with_a_judge_of_another_name_it_goes_on_with_a_table_of_that_judge(monkeypatch):
    iterations, before = drawn(monkeypatch), RUN.metrics.read_bytes()
    judge = ["--model.judge.function", "tests.tiny_runs.sadness", "--trainer.max_epochs", "3"]
    main(["fit", "-c", "run", "--ckpt_path", str(RUN.last), *judge])
    rows = rows_of(RUN.metrics)
    assert [row["val/win_rate"] >= 0 for row in rows] == [False, False, False, True]  # nan is not
    assert all(row["val/win_rate_same"] >= 0 for row in rows)  # of a judge that is the same
    assert Path("run/metrics-1.csv").read_bytes() == before
    assert iterations == [2, 3]


def test_its_policy_is_measured_again_without_a_draw_or_a_question_to_its_judges(monkeypatch):
    iterations = drawn(monkeypatch)
    monkeypatch.setattr(RewardFunction, "rewards", lambda *arguments: pytest.fail("asked"))
    cli = main(["validate", "-c", "run", "--ckpt_path", str(RUN.last)])
    measured = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    expected = {name: value for name, value in rows_of(RUN.metrics)[-1].items() if name.startswith("val/")}
    assert without_ends(measured) == pytest.approx(without_ends(expected), rel=1e-4, abs=1e-6)
    assert iterations == []


def test_it_is_exported():
    agreement = main(["export", "run", "--output", "out"])
    assert "WIND" in Path("out/README.md").read_text()
    assert (Path("out") / "model.safetensors").is_file()
    assert agreement is not None


def test_its_rollouts_are_replayed():
    replay = Replay("run")
    assert replay.prompts_per_iteration == 4
    for iteration in range(2):
        rollouts = replay.rollouts(iteration)
        assert rollouts.responses.iteration == iteration
        assert rollouts.wins.shape == (4, 3, 3)
        assert rollouts.rewards is not None
    arguments = ["--data", "Replay", "--data.path", "run", "--data.batch_size", "1"]
    cli = main(["fit", "-c", "run", *arguments, "--trainer.default_root_dir", "again"])
    new = main(["fit", "-c", "run", "--trainer.default_root_dir", "new", "--trainer.max_epochs", "1"])
    # Adapters begin elsewhere than they did then, and have no part in what the first iteration draws.
    losses = [run.model.history[1]["train/loss"] for run in (cli, new)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert len(cli.model.history) == 3
