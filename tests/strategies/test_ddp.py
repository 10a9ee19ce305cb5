"""Two devices do what one does: the same tokens, the same losses, the same weights, whatever the algorithm."""

from pathlib import Path

import pytest
import torch

from tests.rounding import TRAINED
from tests.strategies.finished import RUNS, finished, model_and_pools, skip_after_a_tie
from tests.strategies.two_processes import on_two_processes
from tests.tiny_runs import assert_same_metrics, assert_same_weights

pytestmark = pytest.mark.slow


def all_finished(model, pools, root):
    """Every run, on two devices of half the batch each."""
    options = {"devices": 2, "strategy": "ddp", "batch_size": 1}
    return {name: finished(name, model, pools, root, **options) for name in RUNS}


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return model_and_pools(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def runs(material, tmp_path_factory):
    """The runs of one device, and those of both processes of two."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = on_two_processes(all_finished, *material, folder / "two")
    return {name: (finished(name, *material, folder / "one"), *(rank[name] for rank in ranks)) for name in RUNS}


@pytest.fixture(params=RUNS)
def run(request, runs):
    return runs[request.param]


def test_two_devices_draw_the_very_tokens_that_one_draws(run):
    one, two, _ = run
    skip_after_a_tie(two, one)
    for kind in ("rollouts", "heldout"):
        for drawn, same in zip(getattr(two, kind), getattr(one, kind), strict=True):
            assert torch.equal(drawn.wins, same.wins)


def test_two_devices_end_at_the_weights_of_one(run):
    one, two, other = run
    assert two.steps == one.steps == 6
    assert_same_weights(two.weights, other.weights)
    skip_after_a_tie(two, one)
    assert_same_weights(one.weights, two.weights, TRAINED)


def test_two_devices_report_what_one_reports(run):
    one, two, _ = run
    assert [row["iteration"] for row in two.rows] == ["0", "1", "2", "3"]
    skip_after_a_tie(two, one)
    assert_same_metrics(two.rows, one.rows)


def test_a_run_of_two_devices_goes_on_with_one(runs, material):
    name = "WIND, adapters"
    one, two, _ = runs[name]
    before = two.folder / "checkpoints" / "iteration-0002.ckpt"
    onward = finished(name, *material, two.folder.parent, run=two.folder, ckpt_path=before)
    assert onward.folder == two.folder
    skip_after_a_tie(two, one)
    assert_same_weights(one.weights, onward.weights, TRAINED)
    assert_same_metrics(onward.rows, one.rows, but="val/win_rate_previous")  # whose responses were those of two devices


def test_the_runs_compared_have_something_to_compare(runs):
    for name, (one, *_) in runs.items():
        first, *_, last = one.rows
        assert float(first["val/kl"]) == 0
        assert abs(float(last["val/kl"])) > 0.01, name  # an estimate, of either sign
        assert len({tuple(rollouts.responses.lengths.flatten().tolist()) for rollouts in one.rollouts}) == 3
    ties = runs["DPO, with ties"][0].rollouts
    assert all(0 < (rollouts.win_rates == 0.5).all(-1).sum() < len(rollouts) for rollouts in ties)


def test_all_processes_of_a_run_share_one_folder(run):
    _, two, other = run
    assert other.folder == two.folder
    assert [path.name for path in two.folder.parent.iterdir()] == [two.folder.name]
    left = {path.relative_to(two.folder).as_posix() for path in two.folder.rglob("*") if path.is_file()}
    assert {"metrics.csv", "timings.csv", "versions.json", "checkpoints/iteration-0003.ckpt"} <= left
    assert {f"rollouts/iteration-000{i}-rank{r}-of-2.parquet" for i in range(3) for r in range(2)} <= left
    assert not Path(two.folder.parent / "checkpoints").exists()
