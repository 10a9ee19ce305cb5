"""A run that is killed at any moment, and goes on, ends bit for bit where the uninterrupted one does."""

import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import make_model
from tests.kills.places import Place
from tests.kills.points import HalfWritten, Point
from tests.kills.processes import asked, final_state, lit_align, on_two_devices, only_run, write_config

SAMPLE = "lit_align.models.generation.next_token:CausalLMNextToken.step"
SCORE = "lit_align.models.language_model:LanguageModel.logps"
ASK = "lit_align.judges.pairwise:PairwiseFunction.compare"
KEEP = "lit_align.judges.store:Store.put"
STEP = "lit_align.iteration.module:AlignmentModule.training_step"
EVALUATE = "lit_align.iteration.evaluator:HeldOutEvaluator.evaluate"
END = "lit_align.iteration.module:AlignmentModule.on_train_epoch_end"
LINK = "lit_align.callbacks.checkpoints:replace_link"
REMOVE = "lit_align.callbacks.checkpoints:WholeFiles.remove_checkpoint"

# A run draws in many steps of its network, judges in two blocks, takes four minibatches for two optimiser steps an
# iteration, and evaluates before its first iteration and after each, against two opponents from the second on. The plan
# of its memory tries a step of the optimiser, which is the first.
MEASURED = "1 scored, verdicts: 2", "1, last is 1"  # of held-out prompts and checkpoints, once an iteration is over
POINTS = {
    "before anything": Point("lit_align.iteration.module:AlignmentModule.configure_model", place=Place("", 0)),
    "while sampling": Point(SAMPLE, 2, in_stages=True, place=Place("sample", 0)),
    "writing what was sampled": HalfWritten("rollouts/*", place=Place("", 0, "0 unnamed")),
    "before the first verdict": Point(ASK, place=Place("judge", 0, "0 sampled")),
    "between verdicts": Point(ASK, 2, place=Place("judge", 0, "0 sampled, verdicts: 1")),
    "after the last verdict": Point(KEEP, 2, after=True, place=Place("judge", 0, "0 sampled, verdicts: 2")),
    "writing what was judged": HalfWritten("rollouts/*", 2, place=Place("", 0, "0 sampled, unnamed, verdicts: 2")),
    "while scoring": Point(SCORE, 2, place=Place("score", 0, "0 judged")),
    "before what was scored has its name": HalfWritten(
        "rollouts/*", 3, renamed=True, place=Place("", 0, "0 judged, unnamed")
    ),
    "before the first evaluation": Point(EVALUATE, place=Place("", 0, "0 scored")),
    "between verdicts of the first evaluation": Point(
        ASK, 4, place=Place("evaluate", 0, "0 scored", "0 judged, verdicts: 1")
    ),
    "between minibatches of a step": Point(STEP, 2, place=Place("train", 0, "0 scored", "0 judged, verdicts: 2")),
    "before the first checkpoint": Point(END, place=Place("", 0, "0 scored", "1 scored, verdicts: 2")),
    "writing the first checkpoint": HalfWritten(
        "*.ckpt", place=Place("", 1, "0 scored", "1 scored, verdicts: 2", "1 unnamed")
    ),
    "after the anchor has moved": Point(
        "lit_align.anchors.extrapolated:Extrapolated.begin", 2, after=True, place=Place("", 1, "0 scored", *MEASURED)
    ),
    "while sampling the second iteration": Point(
        SAMPLE, 38, in_stages=True, place=Place("sample", 1, "0 scored", *MEASURED)
    ),
    "after a step of the second iteration": Point(
        "torch.optim:AdamW.step", 4, after=True, place=Place("train", 1, "1 scored", *MEASURED)
    ),
    "between minibatches of the second iteration": Point(STEP, 8, place=Place("train", 1, "1 scored", *MEASURED)),
    "between the last step and the evaluation": Point(EVALUATE, 3, place=Place("", 1, "1 scored", *MEASURED)),
    "while sampling held-out prompts": Point(
        SAMPLE, 42, in_stages=True, place=Place("evaluate/sample", 1, "1 scored", *MEASURED)
    ),
    "between verdicts of an evaluation": Point(
        ASK, 12, place=Place("evaluate", 1, "1 scored", "2 scored, verdicts: 3", "1, last is 1")
    ),
    "between the evaluation and the checkpoint": Point(
        END, 2, place=Place("", 1, "1 scored", "2 scored, verdicts: 4", "1, last is 1")
    ),
    "writing the second checkpoint": HalfWritten(
        "*.ckpt", 2, place=Place("", 2, "1 scored", "2 scored, verdicts: 4", "1, 2 unnamed, last is 1")
    ),
    "before the second checkpoint has its name": HalfWritten(
        "*.ckpt", 2, renamed=True, place=Place("", 2, "1 scored", "2 scored, verdicts: 4", "1, 2 unnamed, last is 1")
    ),
    "before last.ckpt points to it": Point(
        LINK, 2, place=Place("", 2, "1 scored", "2 scored, verdicts: 4", "1, 2, last is 1")
    ),
    "between steps of the third iteration": Point(
        STEP, 11, place=Place("train", 2, "2 scored", "2 scored, verdicts: 4", "1, 2, last is 2")
    ),
    "before an old checkpoint goes": Point(
        REMOVE, place=Place("", 3, "2 scored", "3 scored, verdicts: 4", "1, 2, 3, last is 3")
    ),
    "after an old checkpoint has gone": Point(
        REMOVE, after=True, place=Place("", 3, "2 scored", "3 scored, verdicts: 4", "2, 3, last is 3")
    ),
    "before the end": Point(
        "lit_align.runs.record:RunRecord.on_fit_end",
        place=Place("", 3, "2 scored", "3 scored, verdicts: 4", "2, 3, last is 3"),
    ),
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
OFTEN = "writing the second checkpoint"  # in every run of the tests; the other points are in the slow ones
SLOW = pytest.mark.slow
DEVICES = ("--trainer.strategy", "ddp", "--trainer.devices", "2")
# The first process and the last, where each is on its own and where both are together; each judges a block.
PLACES = {
    "the second while judging": (Point(ASK, place=Place("judge", 0, "0 sampled")), 1),
    "the second between minibatches of the second iteration": (
        Point(STEP, 4, place=Place("train", 1, "1 scored", "1 scored, verdicts: 1", "1, last is 1")),
        1,
    ),
    "the first before the second checkpoint has its name": (
        HalfWritten(
            "*.ckpt",
            2,
            renamed=True,
            place=Place("", 2, "1 scored", "2 scored, verdicts: 2", "1, 2 unnamed, last is 1"),
        ),
        0,
    ),
    "the first between the last step and the evaluation": (
        Point(EVALUATE, 3, place=Place("", 1, "1 scored", "1 scored, verdicts: 1", "1, last is 1")),
        0,
    ),
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


@pytest.mark.parametrize(
    "point", [pytest.param(point, id=name, marks=() if name == OFTEN else SLOW) for name, point in POINTS.items()]
)
def test_a_killed_run_ends_where_the_uninterrupted_one_does(tmp_path, model, whole, point):
    config = write_config(tmp_path, model)
    assert lit_align(tmp_path, "fit", "-c", config, point=point) == -signal.SIGKILL
    assert lit_align(tmp_path, "fit", "-c", config, "--ckpt_path", "last") == 0
    assert_same(whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("point", OTHER_POINTS)
def test_so_does_one_with_an_anchor_that_draws_and_an_optimiser_that_forgets(tmp_path, model, other, point):
    config = write_config(tmp_path, model, **OTHER)
    assert lit_align(tmp_path, "fit", "-c", config, point=POINTS[point]) == -signal.SIGKILL
    assert lit_align(tmp_path, "fit", "-c", config, "--ckpt_path", "last") == 0
    assert_same(other, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("point", "rank"), PLACES.values(), ids=PLACES.keys())
def test_so_does_one_on_two_devices_when_one_is_killed(tmp_path, model, shared, point, rank):
    config = write_config(tmp_path, model)
    killed = on_two_devices(tmp_path, "fit", "-c", config, *DEVICES, point=point, rank=rank)
    assert killed == -signal.SIGKILL
    assert on_two_devices(tmp_path, "fit", "-c", config, *DEVICES, "--ckpt_path", "last") == 0
    assert_same_files(shared, tmp_path)
    assert set(asked(shared)) == set(asked(tmp_path))


@pytest.mark.slow
def test_dropout_optimiser_schedule_and_anchor_matter_to_these_runs(whole, other):
    """Were they without effect, forgetting them would not be seen."""
    rows = (only_run(whole) / "metrics.csv").read_text().splitlines()
    assert len(rows) == 5
    assert rows != (only_run(other) / "metrics.csv").read_text().splitlines()
    assert len(set(asked(whole))) > 20
