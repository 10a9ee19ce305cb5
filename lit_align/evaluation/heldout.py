"""Everything that is reported of one set of held-out responses."""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_align.evaluation.diversity import DistinctN
from lit_align.evaluation.estimates import Estimate
from lit_align.evaluation.win_rate import WinRate
from lit_align.judges.base import Judge, tell_missing
from lit_align.types import Prompts, Rollouts
from lit_align.utils.digests import text_digest

CLUSTER = ("cluster", "family")
"""Columns that name what a prompt is one of, such as its topic family; the first that a row has."""

MEASURES = ("reward", "kl", "length", "truncated", "distinct_2")
"""What is measured of the responses alone."""


class HeldOut(nn.Module):
    """Reward, KL to the reference, length, truncation, diversity, and win rates against named opponents.

    Keys of the result: ``reward``, ``kl`` (nats, mean of log pi - log pi_ref over the responses; an estimate of the KL
    divergence only where they are draws from pi, at temperature 1 without top-k and top-p), ``length`` (tokens),
    ``truncated`` (share), ``distinct_2``; and for each opponent and judge ``win_rate``. The initial policy and the
    training judge have the plain names; others add ``_previous`` or ``_JUDGE``.

    With ``_low`` and ``_high`` rewards, KL, length and win rates have their 95 % interval: by the ``cluster`` (or
    ``family``) of the prompts where the data have that column, for another set of such clusters; by prompt otherwise.
    With a single one there is no interval.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reward, self.kl, self.length = (Estimate() for _ in range(3))
        self.truncated = MeanMetric()
        self.distinct_2 = DistinctN(2)
        self.win_rates = nn.ModuleDict()

    def update(self, rollouts: Rollouts) -> None:
        """Add the policy's own measures."""
        responses = rollouts.responses
        clusters = clusters_of(responses.prompts).repeat_interleave(responses.group_size)
        if rollouts.rewards is not None:
            self.reward.update(rollouts.rewards.flatten(), clusters)
        if rollouts.reference_token_logps is not None:
            self.kl.update((rollouts.anchor_logps - rollouts.reference_logps).flatten(), clusters)
        self.length.update(responses.lengths.flatten().float(), clusters)
        self.truncated.update(responses.truncated.float())
        self.distinct_2.update(responses.ids, responses.mask)

    def update_against(
        self, suffix: str, judge: Judge, own: tuple[Rollouts, list[str]], other: tuple[Rollouts, list[str]]
    ) -> None:
        """Add comparisons with an opponent's responses to the same prompts.

        Args:
            suffix: Added to ``win_rate``; empty for the initial policy under the training judge.
            judge: Who compares.
            own: The policy's rollouts, and the text of the one response to each prompt.
            other: The opponent's. Rewards in either are taken as this judge's.
        """
        (mine, texts), (theirs, other_texts) = own, other
        prompts = mine.responses.prompts
        rewards = [None if r.rewards is None else r.rewards[:, 0] for r in (mine, theirs)]
        wins = judge.beats(prompts, texts, other_texts, *rewards)
        tell_missing(judge, int(wins.isnan().sum()), len(wins), "evaluation")
        name = f"win_rate{suffix}"
        if name not in self.win_rates:
            self.win_rates[name] = WinRate().to(self.reward.device)
        self._win_rate(name).update(wins, clusters_of(prompts))

    def result(self) -> dict[str, float]:
        """All measures of what was added since the last call."""
        values: dict[str, float] = {}
        means = {"reward": self.reward, "kl": self.kl, "length": self.length}
        rates = {name: self._win_rate(name) for name in self.win_rates}
        for name, estimate in (means | rates).items():
            if estimate.update_count:
                values |= estimate.columns(name)
        for name, metric in (("truncated", self.truncated), ("distinct_2", self.distinct_2)):
            values[name] = float(metric.compute())
            metric.reset()
        return values

    def _win_rate(self, name: str) -> WinRate:
        metric = self.win_rates[name]
        assert isinstance(metric, WinRate)
        return metric


def clusters_of(prompts: Prompts) -> Int[Tensor, " batch"]:
    """An id of what each prompt is one of: the cluster that its row names, or else itself.

    Args:
        prompts: The prompts.
    """
    named = [next((record[name] for name in CLUSTER if name in record), None) for record in prompts.records]
    ids = [
        own if name is None else int(text_digest(repr(name)), 16) >> 1
        for own, name in zip(prompts.record_id.tolist(), named, strict=True)
    ]
    return torch.tensor(ids)


def without_rewards(rollouts: Rollouts) -> Rollouts:
    """The same rollouts for another judge, who has to look for itself."""
    return replace(rollouts, rewards=None)
