"""Rollouts on disk are taken as far as they would be the same if they were made again."""

from dataclasses import replace

import pytest
import torch

from lit_align import LanguageModel, LoRA, MovingAverage, RewardFunction, Sampler
from lit_align.iteration.collector import Collector
from lit_align.iteration.stages import Stages
from tests.conftest import prompts_of

NAMES = ("anchor", "reference", "current")


class Asked:
    """Who was asked to draw, to judge and to score since the last time."""

    def __init__(self, monkeypatch) -> None:
        self.calls = []
        for owner, name in ((LanguageModel, "sample"), (RewardFunction, "rewards"), (LanguageModel, "logps")):
            monkeypatch.setattr(owner, name, self._noting(getattr(owner, name), name))

    def _noting(self, original, name):
        def noting(*args, **kwargs):
            self.calls.append(name)
            return original(*args, **kwargs)

        return noting

    def take(self) -> set[str]:
        calls, self.calls = set(self.calls), []
        return calls


def collector(policy, *, rate=0.5, judge=None, **sampler) -> Collector:
    anchor = MovingAverage(rate)
    anchor.begin(policy, 0)
    law = Sampler(**({"group_size": 2, "max_new_tokens": 4} | sampler))
    settings = {"function": "tests.conftest.happiness"} | (judge or {})
    return Collector(policy, RewardFunction(**settings), law, anchor, Stages(visible=False))


def collect(from_: Collector, path, rows=None, **options):
    policy = from_.policy
    scores = {
        "anchor": lambda responses: from_.anchor.logps(policy, responses),
        "reference": lambda responses: policy.logps(responses, "reference"),
        "current": lambda responses: policy.logps(responses, "policy"),
    }
    with torch.no_grad():
        return from_.rollouts_of(
            policy.encode(rows or prompts_of(3)), path, scores, **({"seed": 0, "iteration": 1} | options)
        )


@pytest.fixture
def policy(tiny_model):
    model = LanguageModel(tiny_model, lora=LoRA(rank=2))
    model.load()
    return model.eval()


def learn(policy):
    """A step of one weight."""
    name, weight = next((n, p) for n, p in policy.named_parameters() if p.requires_grad and "lora_B" in n)
    with torch.no_grad():
        weight[0, 0] += 0.5
    return name


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        ({}, set()),
        ({"token_budget": 17}, set()),
        ({"judge": {"function": "tests.tiny_runs.sadness"}}, {"rewards", "logps"}),
        ({"judge": {"comparison": "bradley_terry"}}, {"rewards", "logps"}),
        ({"judge": {"max_retries": 7}}, set()),
        ({"rate": 0.25}, {"logps"}),
        ({"temperature": 0.9}, {"sample", "rewards", "logps"}),
        ({"group_size": 3}, {"sample", "rewards", "logps"}),
        ({"sources": ("policy", "anchor")}, {"sample", "rewards", "logps"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,  # a set has another order in each process
)
def test_only_what_a_change_makes_stale_is_made_again(policy, tmp_path, monkeypatch, change, asked):
    path = tmp_path / "it.parquet"
    first = collect(collector(policy), path)
    seen = Asked(monkeypatch)
    changed = collector(policy, **change)
    again = collect(changed, path)
    assert seen.take() == asked
    if "sample" not in asked:
        assert torch.equal(again.responses.ids, first.responses.ids)
        assert torch.equal(again.reference_token_logps, first.reference_token_logps)
    assert collect(changed, path).wins.tolist() == again.wins.tolist()
    assert seen.take() == set()  # and it is on disk now


def test_rows_that_ask_the_same_and_say_other_things_are_judged_again_by_what_they_say(policy, tmp_path, monkeypatch):
    path, said, judge = tmp_path / "it.parquet", [], RewardFunction.rewards
    monkeypatch.setattr(RewardFunction, "rewards", lambda self, *rest: said.append(rest[2]) or judge(self, *rest))
    first = collect(collector(policy), path)
    other = [row | {"number": -1} for row in prompts_of(3)]
    seen = Asked(monkeypatch)
    again = collect(collector(policy), path, other)
    assert seen.take() == {"rewards", "logps"}
    assert {record["number"] for record in said[-1]} == {-1}
    assert torch.equal(again.responses.ids, first.responses.ids)
    collect(collector(policy), path, other)
    assert seen.take() == set()


def test_another_policy_draws_again_and_the_reference_does_not(policy, tmp_path, monkeypatch):
    path, initial = tmp_path / "it.parquet", tmp_path / "initial.parquet"
    collect(collector(policy), path)
    collect(collector(policy), initial, sources=("policy",))
    learn(policy)
    seen = Asked(monkeypatch)
    collect(collector(policy), initial, sources=("reference",))
    assert seen.take() == set()
    collect(collector(policy), path)
    assert "sample" in seen.take()


def test_given_responses_are_scored_again_under_another_policy(policy, tmp_path, monkeypatch):
    path = tmp_path / "it.parquet"
    drawn = collect(collector(policy), None)
    logps = {f"{name}_token_logps": None for name in NAMES}
    given = replace(drawn, responses=replace(drawn.responses, source=("data", "data")), **logps)
    first = collect(collector(policy), path, given=given)
    learn(policy)
    seen = Asked(monkeypatch)
    again = collect(collector(policy), path, given=given)
    assert seen.take() == {"logps"}
    assert torch.equal(again.reference_token_logps, first.reference_token_logps)
    assert not torch.equal(again.anchor_token_logps, first.anchor_token_logps)
    assert not torch.equal(again.current_token_logps, first.current_token_logps)


def test_given_verdicts_that_have_changed_are_taken_anew_and_others_are_not(policy, tmp_path, monkeypatch):
    path = tmp_path / "it.parquet"
    drawn = collect(collector(policy), None)
    logps = {f"{name}_token_logps": None for name in NAMES}
    given = replace(drawn, responses=replace(drawn.responses, source=("data", "data")), **logps)
    collect(collector(policy), path, given=given)
    seen = Asked(monkeypatch)
    collect(
        collector(policy, judge={"function": "tests.tiny_runs.sadness"}), path, given=given
    )  # it has compared none of them
    assert seen.take() == set()
    other = replace(given, rewards=given.rewards + 1)
    assert torch.equal(collect(collector(policy), path, given=other).rewards, other.rewards)
