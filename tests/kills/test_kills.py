"""A run that is killed at any moment, and goes on, ends bit for bit where the uninterrupted one does."""

import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import make_model
from tests.kills.points import HalfWritten, Point
from tests.kills.processes import asked, final_state, lit_align, on_two_devices, only_run, write_config

SAMPLE = "lit_align.models.generation.next_token:CachedModel.step"
SCORE = "lit_align.models.language_model:LanguageModel.logps"
ASK = "lit_align.judges.pairwise:PairwiseFunction.compare"
JOURNAL = "lit_align.judges.journal:Journal.put"
STEP = "lit_align.iteration.module:AlignmentModule.training_step"
EVALUATE = "lit_align.iteration.evaluator:HeldOutEvaluator.evaluate"
END = "lit_align.iteration.module:AlignmentModule.on_train_epoch_end"
REMOVE = "lit_align.callbacks.checkpoints:WholeFiles.remove_checkpoint"

# A run draws in many steps of its network, judges in two blocks, takes four minibatches for two optimiser steps an
# iteration, and evaluates before its first iteration and after each, against two opponents from the second on.
POINTS = {
    "before anything": Point("lit_align.iteration.module:AlignmentModule.configure_model"),
    "while sampling": Point(SAMPLE, 2),
    "writing what was sampled": HalfWritten("rollouts/*"),
    "before the first verdict": Point(ASK),
    "between verdicts": Point(ASK, 2),
    "after the last verdict": Point(JOURNAL, 2, after=True),
    "writing what was judged": HalfWritten("rollouts/*", 2),
    "while scoring": Point(SCORE, 2),
    "before what was scored has its name": HalfWritten("rollouts/*", 3, renamed=True),
    "before the first evaluation": Point(EVALUATE),
    "between verdicts of the first evaluation": Point(ASK, 6),
    "between minibatches of a step": Point(STEP, 2),
    "before the first checkpoint": Point(END),
    "writing the first checkpoint": HalfWritten("*.ckpt"),
    "after the anchor has moved": Point("lit_align.anchors.extrapolated:Extrapolated.begin", 2, after=True),
    "while sampling the second iteration": Point(SAMPLE, 38),
    "after a step of the second iteration": Point("torch.optim:AdamW.step", 3, after=True),
    "between minibatches of the second iteration": Point(STEP, 8),
    "between the last step and the evaluation": Point(EVALUATE, 3),
    "while sampling held-out prompts": Point(SAMPLE, 42),
    "between verdicts of an evaluation": Point(ASK, 14),
    "between the evaluation and the checkpoint": Point(END, 2),
    "writing the second checkpoint": HalfWritten("*.ckpt", 2),
    "before the second checkpoint has its name": HalfWritten("*.ckpt", 2, renamed=True),
    "before last.ckpt points to it": Point("lit_align.callbacks.checkpoints:replace_link", 2),
    "between steps of the third iteration": Point(STEP, 11),
    "before an old checkpoint goes": Point(REMOVE),
    "after an old checkpoint has gone": Point(REMOVE, after=True),
    "before the end": Point("lit_align.runs.record:RunRecord.on_fit_end"),
}
OTHER = {
    "anchor": {"class_path": "MovingAverage", "init_args": {"rate": 0.5}},
    "sampler": {"sources": ["policy", "anchor", "policy"], "max_new_tokens": 5, "token_budget": 80},
    "reset_optimizer": True,
}
OTHER_POINTS = [
    "between verdicts",
    "while sampling the second iteration",
    "between minibatches of the second iteration",
]


DEVICES = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
# The first process and the last, where each is on its own and where both are together.
PLACES = {
    "the second while judging": (Point(ASK), 1),
    "the second between minibatches of the second iteration": (Point(STEP, 4), 1),
    "the first before the second checkpoint has its name": (POINTS["before the second checkpoint has its name"], 0),
    "the first between the last step and the evaluation": (Point(EVALUATE, 3), 0),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(make_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert lit_align(folder, "fit", "-c", write_config(folder, model)) == 0
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory, model) -> Path:
    """The same, of another anchor and an optimiser that forgets."""
    folder = tmp_path_factory.mktemp("other")
    assert lit_align(folder, "fit", "-c", write_config(folder, model, **OTHER)) == 0
    return folder


@pytest.fixture(scope="module")
def shared(tmp_path_factory, model) -> Path:
    """The first, on two devices."""
    folder = tmp_path_factory.mktemp("shared")
    assert on_two_devices(folder, "fit", "-c", write_config(folder, model), *DEVICES) == 0
    return folder


def assert_same(one: Path, two: Path) -> None:
    """As below, and their judges the same questions, each once."""
    assert asked(one) == asked(two)
    assert_same_files(one, two)


def assert_same_files(one: Path, two: Path) -> None:
    """Two folders saw the same run, bit for bit."""
    first, second = only_run(one), only_run(two)
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    states = final_state(first), final_state(second)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    files = [{file.relative_to(run): file for file in run.glob("*/*.parquet")} for run in (first, second)]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        assert pq.read_table(files[0][name]).equals(pq.read_table(files[1][name]), check_metadata=True), name
    left = [path.name for path in second.rglob("*") if "partial" in path.name or path.parent.name == "rollouts"]
    assert all(name.endswith(".parquet") for name in left), left


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS.keys())
def test_a_killed_run_ends_where_the_uninterrupted_one_does(tmp_path, model, whole, point):
    config = write_config(tmp_path, model)
    assert lit_align(tmp_path, "fit", "-c", config, point=point) == -signal.SIGKILL
    assert lit_align(tmp_path, "fit", "-c", config, "--ckpt_path", "last") == 0
    assert_same(whole, tmp_path)


@pytest.mark.parametrize("point", OTHER_POINTS)
def test_so_does_one_with_an_anchor_that_draws_and_an_optimiser_that_forgets(tmp_path, model, other, point):
    config = write_config(tmp_path, model, **OTHER)
    assert lit_align(tmp_path, "fit", "-c", config, point=POINTS[point]) == -signal.SIGKILL
    assert lit_align(tmp_path, "fit", "-c", config, "--ckpt_path", "last") == 0
    assert_same(other, tmp_path)


@pytest.mark.parametrize(("point", "rank"), PLACES.values(), ids=PLACES.keys())
def test_so_does_one_on_two_devices_when_one_is_killed(tmp_path, model, shared, point, rank):
    config = write_config(tmp_path, model)
    killed = on_two_devices(tmp_path, "fit", "-c", config, *DEVICES, point=point, rank=rank)
    assert killed == -signal.SIGKILL
    assert on_two_devices(tmp_path, "fit", "-c", config, *DEVICES, "--ckpt_path", "last") == 0
    assert_same_files(shared, tmp_path)
    assert set(asked(shared)) == set(asked(tmp_path))


def test_dropout_optimiser_schedule_and_anchor_matter_to_these_runs(whole, other):
    """Were they without effect, forgetting them would not be seen."""
    rows = (only_run(whole) / "metrics.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows != (only_run(other) / "metrics.csv").read_text().splitlines()
    assert len(set(asked(whole))) > 20
