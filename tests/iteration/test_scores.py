"""Policies that are one network still are scored once, and refused if they are not."""

import pytest
import torch

from lit_align.iteration.scores import of_one_network
from lit_align.types import Prompts, Responses
from tests.tiny_runs import build

NAMES = ("anchor", "reference", "current")


def part(*record_ids: int) -> Responses:
    batch = len(record_ids)
    ids = torch.tensor(record_ids)[:, None, None].expand(-1, 2, 3)
    prompts = Prompts(torch.ones(batch, 2).long(), torch.ones(batch, 2).bool(), torch.tensor(record_ids), [{}] * batch)
    return Responses(prompts, ids, torch.ones(ids.shape).bool(), torch.zeros(batch, 2).bool(), torch.zeros(ids.shape))


class Network:
    """Scores tokens by their number, and remembers how many groups it was asked about."""

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset
        self.groups: list[int] = []

    def __call__(self, responses):
        self.groups.append(len(responses))
        return -responses.ids.float() - self.offset


def test_the_first_scores_everything_and_the_others_one_group_each():
    networks = {name: Network() for name in NAMES}
    scores = of_one_network(networks, exact=True)
    parts = [part(1, 2, 3), part(4, 5)]
    for name in NAMES:
        for responses in parts:
            assert torch.equal(scores[name](responses), -responses.ids.float())
    assert [networks[name].groups for name in NAMES] == [[3, 2], [1], [1]]


def test_one_that_differs_is_refused_by_name():
    scores = of_one_network({"anchor": Network(), "reference": Network(0.1)}, exact=True)
    scores["anchor"](part(1, 2))
    with pytest.raises(RuntimeError, match=r"policy and reference should be the same .* differ by 0\.1"):
        scores["reference"](part(1, 2))


def test_what_was_scored_before_a_run_was_killed_is_not_missed():
    reference = Network()
    scores = of_one_network({"reference": reference}, exact=True)
    assert torch.equal(scores["reference"](part(1, 2)), -part(1, 2).ids.float())
    assert reference.groups == [2]


def test_a_run_scores_its_first_responses_once_and_later_ones_under_both_policies(tiny_model, pools, tmp_path):
    run = build(tiny_model, pools, tmp_path, limit_val_batches=0)
    scored: list[tuple[int, str, int]] = []
    logps = run.module.policy.logps

    def counting(responses, source="policy"):
        if not torch.is_grad_enabled():
            scored.append((int(run.module.iteration), source, len(responses)))
        return logps(responses, source)

    run.module.policy.logps = counting
    run.fit()
    assert scored == [(0, "policy", 8), (0, "reference", 1), (1, "policy", 8), (1, "reference", 8)]
