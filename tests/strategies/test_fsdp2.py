"""A policy in shards learns what a whole one learns: runs of `ModelParallelStrategy` on two CPU processes."""

import pytest
import torch

from tests.runs import assert_same_weights
from tests.strategies.finished import material
from tests.strategies.sharded_runs import RUNS, all_left, gone_on, left
from tests.strategies.two_processes import on_two_processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Each run on one device, and what the first of two processes says of it."""
    folder = tmp_path_factory.mktemp("shards")
    model, pools = material(folder)
    first, second = on_two_processes(all_left, model, pools, folder / "two")
    assert [one.weights for one in second.values()] == [{} for _ in RUNS]
    return {name: (left(name, model, pools, folder / "one" / name), first[name]) for name in RUNS}


@pytest.fixture(params=RUNS)
def run(request, runs):
    return runs[request.param]


def test_shards_draw_the_very_tokens_that_whole_weights_draw(run):
    whole, shards = run
    for drawn, same in zip(shards.rollouts, whole.rollouts, strict=True):
        assert torch.equal(drawn.responses.ids, same.responses.ids)
        assert torch.equal(drawn.responses.mask, same.responses.mask)
        torch.testing.assert_close(drawn.anchor_token_logps, same.anchor_token_logps, rtol=0, atol=1e-5)


def test_shards_end_at_the_weights_of_a_single_device(run):
    whole, shards = run
    assert_same_weights(whole.weights, shards.weights, atol=1e-5)


def test_shards_report_what_a_single_device_reports(run):
    whole, shards = run
    for row, same in zip(shards.rows, whole.rows, strict=True):
        assert row.keys() == same.keys()
        for name, value in same.items():
            assert row[name] == value == "" or float(row[name]) == pytest.approx(float(value), abs=1e-5), name


def test_shards_that_went_on_from_a_checkpoint_end_where_the_uninterrupted_ones_do(run):
    whole, shards = run
    assert_same_weights(whole.weights, whole.went_on)
    assert_same_weights(shards.weights, shards.went_on)


def test_shards_are_exported_as_a_plain_model(run):
    whole, shards = run
    assert_same_weights(whole.exported, shards.exported, atol=1e-5)
