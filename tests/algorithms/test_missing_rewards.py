"""A response whose reward is missing is left out of the losses of rewards, and its group goes on without it."""

import math
from dataclasses import replace

import pytest
import torch

from lit_align import DPO, EXO, IterativeBOND, Patience, RewardJudge, Sampler
from lit_align.data.rollout_store import load_rollouts
from tests.conftest import happiness
from tests.tiny_runs import build

SOURCES = ("policy", "policy", "anchor", "anchor")  # the second one goes missing: BOND has a sample and two anchors
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
def test_groups_that_miss_a_reward_go_on_with_the_others_and_no_value_is_nan(tiny_model, pools, tmp_path, algorithm):
    run = finished(tiny_model, pools, tmp_path, algorithm)
    rollouts = load_rollouts(run.folder / "rollouts" / "iteration-0000-rank0.parquet")
    lost = [record["number"] in LOST for record in rollouts.responses.prompts.records]
    assert rollouts.rewards.isnan().any(-1).tolist() == lost
    assert (run.module.loss_weights(rollouts) == 1).all()
    silent = replace(rollouts, rewards=rollouts.rewards.masked_fill(torch.tensor(lost)[:, None], torch.nan))
    assert run.module.loss_weights(silent).tolist() == [float(not missing) for missing in lost]
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
    run = finished(tiny_model, pools, tmp_path, EXO, sampler=Sampler(group_size=4, max_new_tokens=8))
    rollouts = load_rollouts(run.folder / "rollouts" / "iteration-0000-rank0.parquet")
    scored = replace(rollouts, policy_token_logps=rollouts.reference_token_logps + 0.1)
    lost = torch.tensor([record["number"] in LOST for record in rollouts.responses.prompts.records])
    losses, _ = run.module.loss(scored)
    other, _ = run.module.loss(replace(scored, rewards=scored.rewards + 7.0 * torch.randn(4) * lost[:, None]))
    torch.testing.assert_close(other[~lost], losses[~lost], atol=0, rtol=0)
    assert ((other - losses)[lost].abs() > 1e-3).all()
