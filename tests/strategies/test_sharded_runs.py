"""A policy in shards learns what a whole one learns: runs on two CPU processes beside runs on one."""

import pytest

from tests.rounding import TRAINED, assert_same_but_rounding
from tests.strategies.finished import model_and_pools, skip_after_a_tie
from tests.strategies.sharded_runs import CASES, all_left
from tests.strategies.two_processes import on_two_processes
from tests.tiny_runs import assert_same_metrics, assert_same_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By name: what one device leaves, and what the first of two processes leaves."""
    folder = tmp_path_factory.mktemp("shards")
    model, pools = model_and_pools(folder)
    one = all_left(model, pools, folder / "one", 1, folder / "nobody")
    two, second = on_two_processes(all_left, model, pools, folder / "two", 2, folder / "one")
    assert all(not left.weights for left in second.values())
    return {name: (one[case.twin or name], two[name]) for name, case in CASES.items()}


@pytest.fixture(params=CASES)
def run(request, runs):
    return runs[request.param]


@pytest.fixture(params=[name for name, case in CASES.items() if case.goes_on])
def continued(request, runs):
    return runs[request.param]


def test_shards_draw_the_very_tokens_that_whole_weights_draw(run):
    whole, shards = run
    skip_after_a_tie(shards, whole)
    for drawn, same in zip(shards.rollouts, whole.rollouts, strict=True):
        assert_same_but_rounding(drawn.anchor_token_logps, same.anchor_token_logps, TRAINED)


def test_shards_end_at_the_weights_of_a_single_device(run):
    whole, shards = run
    skip_after_a_tie(shards, whole)
    assert_same_weights(whole.weights, shards.weights, TRAINED)


def test_shards_report_what_a_single_device_reports(run):
    whole, shards = run
    skip_after_a_tie(shards, whole)
    assert abs(float(whole.rows[-1]["val/kl"])) > 1e-3  # an estimate, of either sign
    assert_same_metrics(shards.rows, whole.rows)


def test_shards_are_exported_as_a_plain_model(run):
    whole, shards = run
    skip_after_a_tie(shards, whole)
    assert_same_weights(whole.exported, shards.exported, TRAINED)


def test_shards_that_go_on_end_where_the_uninterrupted_ones_do(continued):
    _, shards = continued
    assert_same_weights(shards.weights, shards.went_on)


def test_shards_go_on_from_the_checkpoint_of_a_single_device(continued):
    whole, shards = continued
    skip_after_a_tie(shards, whole)
    assert_same_weights(whole.weights, shards.taken_over, TRAINED)
