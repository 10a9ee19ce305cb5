"""What is reported of held-out responses: its names, signs and values by hand."""

import pytest
import torch

from lit_align import Judge, RewardJudge
from lit_align.evaluation.heldout import HeldOut, without_rewards
from lit_align.types import Prompts, Responses, Rollouts, pad_left

LENGTHS = [2, 3, 1]
OWN = {"kl", "kl_low", "kl_high", "length", "length_low", "length_high", "truncated", "distinct_2"}
KL = {"kl", "kl_low", "kl_high"}
T_2 = 4.30265  # Student's quantile of two degrees of freedom


def rollouts(rewards: list[float] | None = None, rows=range(3), scored: bool = True) -> Rollouts:
    """Three responses; log pi - log pi_ref is 1, -0.5 and 0.25 a token; padding holds nonsense."""
    lengths = torch.tensor(LENGTHS)[:, None]
    mask = torch.arange(3) < lengths[..., None]
    ids, prompt_mask = pad_left([[5], [6], [7]])
    prompts = Prompts(ids, prompt_mask, torch.tensor([11, 12, 13]), [{"prompt": p} for p in "abc"])
    tokens = torch.tensor([[[1, 2, 9]], [[1, 2, 1]], [[3, 9, 9]]])
    truncated = torch.tensor([[False], [True], [False]])
    responses = Responses(prompts, tokens, mask, truncated, torch.zeros(3, 1, 3))
    reference = torch.where(mask, -2.0, 100.0)
    anchor = torch.where(mask, reference + torch.tensor([1.0, -0.5, 0.25])[:, None, None], -1000.0)
    wins = torch.full((3, 1, 1), 0.5)
    known = {"anchor_token_logps": anchor, "reference_token_logps": reference} if scored else {}
    given = None if rewards is None else torch.tensor(rewards)[:, None]
    return Rollouts(responses, wins, torch.ones_like(wins).bool(), given, **known).select(list(rows))


class Length(RewardJudge):
    """Rewards characters, and counts how often it is asked."""

    asked = 0

    def rewards(self, prompts, responses, records):
        self.asked += len(responses)
        return [float(len(text)) for text in responses]


class Alphabet(Judge):
    """Has no rewards: P(first beats second) = 0.9 where it comes first in the alphabet."""

    def compare(self, prompts, first, second, records):
        return [0.9 if a < b else 0.1 for a, b in zip(first, second, strict=True)]


def test_own_measures_by_hand():
    heldout = HeldOut()
    heldout.update(rollouts([1.0, 2.0, -6.0]))
    kl = torch.tensor([2 * 1.0, 3 * -0.5, 1 * 0.25])  # per response, not per token
    halves = {
        name: T_2 * float(values.std()) / 3**0.5
        for name, values in (("reward", torch.tensor([1.0, 2.0, -6.0])), ("kl", kl), ("length", torch.arange(1.0, 4.0)))
    }
    means = {"reward": -1.0, "kl": float(kl.mean()), "length": 2.0}
    assert heldout.result() == pytest.approx(
        means
        | {f"{name}_low": mean - halves[name] for name, mean in means.items()}
        | {f"{name}_high": mean + halves[name] for name, mean in means.items()}
        | {
            "truncated": 1 / 3,
            "distinct_2": 2 / 3,  # 12 | 12 21
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("column", ["cluster", "family"])
def test_intervals_are_by_the_cluster_that_the_data_name(column):
    """Two of the three prompts are of one family: two clusters, and a quantile of one degree of freedom."""
    some = rollouts([1.0, 3.0, 8.0])
    for record, name in zip(some.responses.prompts.records, "xxy", strict=True):
        record[column] = name
    heldout = HeldOut()
    heldout.update(some)
    heldout.update_against("", Alphabet(), (some, ["a", "b", "z"]), (some, ["x", "y", "c"]))
    result = heldout.result()
    half = 12.7062 * (2 * (4.0**2 + 4.0**2) / 9) ** 0.5  # sums of what each cluster is above three terms of the mean 4
    assert result["reward_high"] - result["reward"] == pytest.approx(half, rel=1e-4)
    alone = HeldOut()
    alone.update(rollouts([1.0, 3.0, 8.0]))
    assert result["reward_high"] > alone.result()["reward_high"]
    assert result["win_rate_low"] < 0.1


def test_a_single_cluster_has_no_interval():
    some = rollouts([1.0, 3.0, 8.0])
    for record in some.responses.prompts.records:
        record["cluster"] = "the same"
    heldout = HeldOut()
    heldout.update(some)
    assert set(heldout.result()) == {"reward", "kl", "length", "truncated", "distinct_2"}


def test_kl_is_positive_where_the_policy_is_more_sure_of_its_own_responses():
    heldout = HeldOut()
    heldout.update(rollouts(rows=[0]))
    assert heldout.result()["kl"] == pytest.approx(2.0)


def test_what_is_not_known_is_not_reported():
    heldout = HeldOut()
    heldout.update(rollouts())
    assert set(heldout.result()) == OWN
    heldout.update(rollouts(scored=False))
    assert set(heldout.result()) == OWN - KL


def test_updates_in_parts_are_one_update():
    whole, parts = HeldOut(), HeldOut()
    rewards = [1.0, 2.0, -6.0]
    whole.update(rollouts(rewards))
    for rows in ([0, 1], [2]):
        parts.update(rollouts(rewards, rows))
    assert parts.result() == pytest.approx(whole.result())


def test_a_result_is_of_what_was_added_since_the_last_one():
    heldout, texts = HeldOut(), ["a", "b", "c"]
    for rewards, rate in (([1.0, 1.0, 1.0], 1.0), ([-1.0, 0.0, 1.0], 0.5)):
        mine = rollouts(rewards)
        heldout.update(mine)
        heldout.update_against("", Length(), (mine, texts), (rollouts([0.0] * 3), texts))
        result = heldout.result()
        assert result["reward"] == pytest.approx(sum(rewards) / 3)
        assert result["win_rate"] == pytest.approx(rate)


def test_the_first_is_the_policy_and_the_second_its_opponent():
    heldout = HeldOut()
    own, other = (rollouts(), ["a", "b", "z"]), (rollouts(), ["x", "y", "c"])
    heldout.update_against("", Alphabet(), own, other)
    heldout.update_against("_previous", Alphabet(), other, own)
    heldout.update(rollouts())
    result = heldout.result()
    assert result["win_rate"] == pytest.approx((0.9 + 0.9 + 0.1) / 3)
    assert result["win_rate_previous"] == pytest.approx((0.1 + 0.1 + 0.9) / 3)
    expected = {f"win_rate{suffix}{end}" for suffix in ("", "_previous") for end in ("", "_low", "_high")}
    assert set(result) == OWN | expected
    assert result["win_rate_low"] < result["win_rate"] < result["win_rate_high"]


def test_known_rewards_are_used_and_not_asked_for_again():
    heldout, judge = HeldOut(), Length()
    own, other = (rollouts([3.0, 1.0, 0.0]), ["a", "a", "a"]), (rollouts([2.0, 2.0, 0.0]), ["aa", "aa", "aa"])
    heldout.update_against("", judge, own, other)
    heldout.update(rollouts())
    assert judge.asked == 0
    assert heldout.result()["win_rate"] == pytest.approx((1 + 0 + 0.5) / 3)


@pytest.mark.parametrize("hidden", ["own", "other", "both"])
def test_where_rewards_are_hidden_the_judge_looks_for_itself(hidden):
    heldout, judge = HeldOut(), Length()
    own, other = rollouts([-9.0] * 3), rollouts([9.0] * 3)
    own = own if hidden == "other" else without_rewards(own)
    other = other if hidden == "own" else without_rewards(other)
    heldout.update_against("_length", judge, (own, ["aaa"] * 3), (other, ["a"] * 3))
    heldout.update(rollouts())
    assert judge.asked == 6
    assert heldout.result()["win_rate_length"] == 1.0


def test_hiding_rewards_hides_nothing_else():
    whole = rollouts([1.0, 2.0, 3.0])
    hidden = without_rewards(whole)
    assert hidden.rewards is None
    assert whole.rewards is not None
    torch.testing.assert_close(hidden.anchor_logps, whole.anchor_logps)
    assert hidden.responses is whole.responses


def test_an_opponent_that_was_not_met_since_the_last_result_is_not_reported():
    heldout, judge = HeldOut(), Length()
    for opponents, expected in ((("", "_previous"), True), (("",), False)):
        heldout.update(rollouts())
        for suffix in opponents:
            heldout.update_against(suffix, judge, (rollouts(), ["aa", "b", "c"]), (rollouts(), ["a", "bb", "c"]))
        assert ("win_rate_previous" in heldout.result()) == expected
