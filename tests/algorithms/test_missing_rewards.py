"""A response whose reward is missing takes its group out of the losses of rewards, and nothing else."""

import math

import pytest

from lit_align import DPO, EXO, IterativeBOND, Patience, RewardJudge, Sampler
from lit_align.data.rollout_store import load_rollouts
from tests.conftest import happiness
from tests.tiny_runs import assert_same_weights, build

SOURCES = ("policy", "policy", "anchor", "anchor")
LOST = {3, 8}


class Lossy(RewardJudge):
    """Rewards good words, but never answers about the second of the responses to some prompts."""

    patience = Patience(max_retries=0)

    def verdict(self, prompts, texts, report=None):
        self.groups = {record["number"]: group for record, group in zip(prompts.records, texts, strict=True)}
        assert all(len(set(self.groups[number])) == 4 for number in LOST & self.groups.keys())  # told apart by text
        return super().verdict(prompts, texts, report)

    def slot(self, response, record):
        return self.groups[record["number"]].index(response)

    def rewards(self, prompts, responses, records):
        asked = zip(responses, records, strict=True)
        if any(record["number"] in LOST and self.slot(response, record) == 1 for response, record in asked):
            raise ConnectionError("lost")
        return happiness(prompts, responses, records)


def finished(model, pools, folder, algorithm, **options):
    options = {"judge": Lossy(), "sampler": Sampler(sources=SOURCES, max_new_tokens=8)} | options
    pool = {"prompts_per_iteration": 16, "batch_size": 4}
    return build(
        model, pools | {"heldout": None}, folder, algorithm=algorithm, wind=options, pool=pool, lr=0.001, max_epochs=1
    ).fit()


@pytest.mark.parametrize("algorithm", [EXO, IterativeBOND])
def test_groups_that_miss_a_reward_have_no_weight_and_no_value_is_nan(tiny_model, pools, tmp_path, algorithm):
    run = finished(tiny_model, pools, tmp_path, algorithm)
    rollouts = load_rollouts(run.folder / "rollouts" / "iteration-0000-rank0.parquet")
    lost = [record["number"] in LOST for record in rollouts.responses.prompts.records]
    assert rollouts.rewards.isnan().any(-1).tolist() == lost
    assert run.module.loss_weights(rollouts).tolist() == [float(not missing) for missing in lost]
    assert all(value.isfinite().all() for value in run.weights.values())
    assert math.isfinite(float(run.rows[0]["train/loss"]))
    assert float(run.rows[0]["train/reward"]) == pytest.approx(float(rollouts.rewards.nanmean()))


def test_a_loss_of_pairs_goes_on_with_the_pairs_that_are_left(tiny_model, pools, tmp_path):
    run = finished(tiny_model, pools, tmp_path, DPO, sampler=Sampler(group_size=4, max_new_tokens=8))
    rollouts = load_rollouts(run.folder / "rollouts" / "iteration-0000-rank0.parquet")
    for row, record in enumerate(rollouts.responses.prompts.records):
        expected = record["number"] not in LOST
        assert bool(rollouts.compared[row, 1, 0]) == expected
        assert bool(rollouts.compared[row, 2, 3])
    assert all(value.isfinite().all() for value in run.weights.values())


def test_the_loss_of_a_group_does_not_depend_on_another_that_misses_a_reward(tiny_model, pools, tmp_path):
    class Wild(Lossy):
        """Another reward of the first response where the second is missing."""

        def rewards(self, prompts, responses, records):
            asked = zip(responses, records, super().rewards(prompts, responses, records), strict=True)
            return [value + 7 * (r["number"] in LOST and self.slot(text, r) == 0) for text, r, value in asked]

    tame, wild = (
        finished(tiny_model, pools, tmp_path, EXO, judge=judge, sampler=Sampler(group_size=4, max_new_tokens=8))
        for judge in (Lossy(), Wild())
    )
    assert_same_weights(tame.weights, wild.weights)
