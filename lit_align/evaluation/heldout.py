"""One set of held-out responses is reported by rewards, KL, length, diversity and win rates."""

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
"""The first of these columns that a row has names the cluster of its prompt, such as its topic family."""

MEASURES = ("reward", "kl", "length", "truncated", "distinct_2")
"""These measures need the responses alone."""


class HeldOut(nn.Module):
    """Measures reward, KL to the reference, length, truncation, diversity, and win rates against named opponents.

    The keys are ``reward``, ``kl`` (nats, the mean of log pi - log pi_ref, which estimates the KL divergence only for
    samples from pi itself), ``length`` (tokens), ``truncated`` (share), ``distinct_2``, and ``win_rate`` against the
    initial policy by the training judge; other opponents and judges add ``_previous`` or ``_JUDGE``. All but
    ``truncated`` and ``distinct_2`` have a 95 % interval in ``_low`` and ``_high``, over the clusters of the prompts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reward, self.kl, self.length = (Estimate() for _ in range(3))
        self.truncated = MeanMetric()
        self.distinct_2 = DistinctN(2)
        self.win_rates = nn.ModuleDict()

    def update(self, rollouts: Rollouts) -> None:
        """Add the measures that need no opponent."""
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
        """Add the judge's comparisons with an opponent's responses to the same prompts, as ``win_rate`` and the suffix.

        ``own`` and ``other`` are rollouts with one response to each prompt, whose rewards are this judge's, and texts.
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
        """Return all measures of what was added since the last call."""
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
    """Return the id of each prompt's cluster, which a column of :data:`CLUSTER` names, or else of the prompt."""
    named = [next((record[name] for name in CLUSTER if name in record), None) for record in prompts.records]
    ids = [
        own if name is None else int(text_digest(repr(name)), 16) >> 1
        for own, name in zip(prompts.record_id.tolist(), named, strict=True)
    ]
    return torch.tensor(ids)


def without_rewards(rollouts: Rollouts) -> Rollouts:
    """Return the same rollouts without rewards, so that another judge gives its own."""
    return replace(rollouts, rewards=None)
