"""Everything that is reported of one set of held-out responses."""

from dataclasses import replace

from torch import nn
from torchmetrics import MeanMetric

from lit_align.evaluation.diversity import DistinctN
from lit_align.evaluation.win_rate import WinRate
from lit_align.judges.base import Judge, tell_missing
from lit_align.types import Rollouts

MEASURES = ("reward", "kl", "length", "truncated", "distinct_2")
"""What is measured of the responses alone."""


class HeldOut(nn.Module):
    """Reward, KL to the reference, length, truncation, diversity, and win rates against named opponents.

    Keys of the result: ``reward``, ``kl`` (nats, mean of log pi - log pi_ref over the responses; an estimate of the KL
    divergence only where they are draws from pi, at temperature 1 without top-k and top-p), ``length`` (tokens),
    ``truncated`` (share), ``distinct_2``; and for each opponent and judge ``win_rate`` with ``_low`` and ``_high``, its
    95 % interval by prompt. The initial policy and the training judge have the plain names; others add ``_previous`` or
    ``_JUDGE``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reward = MeanMetric(nan_strategy="ignore")  # one that is missing does not count
        self.kl, self.length, self.truncated = (MeanMetric() for _ in range(3))
        self.distinct_2 = DistinctN(2)
        self.win_rates = nn.ModuleDict()

    def update(self, rollouts: Rollouts) -> None:
        """Add the policy's own measures."""
        responses = rollouts.responses
        if rollouts.rewards is not None:
            self.reward.update(rollouts.rewards)
        if rollouts.reference_token_logps is not None:
            self.kl.update(rollouts.anchor_logps - rollouts.reference_logps)
        self.length.update(responses.lengths.float())
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
        self._win_rate(name).update(wins, prompts.record_id)

    def result(self) -> dict[str, float]:
        """All measures of what was added since the last call."""
        means = {"reward": self.reward, "kl": self.kl, "length": self.length, "truncated": self.truncated}
        values = {name: float(mean.compute()) for name, mean in means.items() if mean.update_count}
        values["distinct_2"] = float(self.distinct_2.compute())
        for name in (name for name in self.win_rates if self._win_rate(name).update_count):
            rate, low, high = self._win_rate(name).compute().tolist()
            values |= {name: rate, f"{name}_low": low, f"{name}_high": high}
        for metric in (*means.values(), self.distinct_2, *(self._win_rate(name) for name in self.win_rates)):
            metric.reset()
        return values

    def _win_rate(self, name: str) -> WinRate:
        metric = self.win_rates[name]
        assert isinstance(metric, WinRate)
        return metric


def without_rewards(rollouts: Rollouts) -> Rollouts:
    """The same rollouts for another judge, who has to look for itself."""
    return replace(rollouts, rewards=None)
