"""Evaluation of an iterate on held-out prompts, against the initial policy and the iterate before."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from lit_align.evaluation.heldout import HeldOut, without_rewards
from lit_align.iteration.collector import Collector, Score
from lit_align.iteration.origins import found_rollouts
from lit_align.iteration.stages import Relay, Stages
from lit_align.judges.base import Judge
from lit_align.judges.store import StoredJudge
from lit_align.models.policy import Policy
from lit_align.run_folder import verdicts_of
from lit_align.types import Prompts, Rollouts

ONE = ("policy",)
INITIAL = 0  # the iteration whose policy is the reference, which everything is compared with

PathOf = Callable[[int], Path]
"""The file that holds the held-out rollouts of an iteration."""


class Evaluator(nn.Module, ABC):
    """How an iterate is measured.

    Attributes:
        judges: Judges that only evaluate, by name.
    """

    def __init__(self, judges: dict[str, Judge] | None = None) -> None:
        super().__init__()
        self.judges = judges or {}

    @abstractmethod
    def evaluate(self, collector: Collector, prompts: Prompts, path_of: PathOf, *, iteration: int, seed: int) -> None:
        """Measure the policy that has completed ``iteration`` iterations.

        Args:
            collector: Samples, judges and scores; its judge is the training judge.
            prompts: What is answered.
            path_of: Where each iteration's rollouts are, or will be.
            iteration: Iterations completed; 0 is the initial policy.
            seed: Of the responses; not the training one.
        """

    @abstractmethod
    def result(self) -> dict[str, float]:
        """All measures since the last call."""


class HeldOutEvaluator(Evaluator):
    """Draws one response to each held-out prompt and compares it with earlier ones.

    Args:
        judges: Judges that only evaluate, by name.
    """

    def __init__(self, judges: dict[str, Judge] | None = None) -> None:
        super().__init__(judges)
        self.measures = HeldOut()

    def evaluate(self, collector: Collector, prompts: Prompts, path_of: PathOf, *, iteration: int, seed: int) -> None:
        """Measure the policy that has completed ``iteration`` iterations.

        Random numbers are keyed by the iteration: two iterates answer independently, as the win rate asks.

        Args:
            collector: Samples, judges and scores; its judge is the training judge.
            prompts: Held-out prompts.
            path_of: Where each iteration's held-out rollouts are, or will be.
            iteration: Iterations completed; 0 is the initial policy.
            seed: Of the responses; not the training one.
        """
        with collector.stages.stage("evaluate", len(prompts)) as advance:
            quiet = replace(collector, stages=Relay(advance))
            policy = collector.policy
            scores: dict[str, Score] = {
                "anchor": lambda responses: policy.logps(responses, "policy"),
                "reference": lambda responses: policy.logps(responses, "reference"),
            }
            if iteration == INITIAL:
                scores = {}  # the policy is the reference still: its KL is 0, not an estimate of 0
            own = quiet.rollouts_of(prompts, path_of(iteration), scores, seed=seed, iteration=iteration, sources=ONE)
            if iteration == INITIAL:
                same = own.responses.sample_logps
                own = replace(own, anchor_token_logps=same, reference_token_logps=same)
            self.measures.update(own)
            initial = own
            if iteration != INITIAL:
                silent = replace(collector, stages=Stages(visible=False))
                initial = silent.rollouts_of(
                    prompts, path_of(INITIAL), {}, seed=seed, iteration=INITIAL, sources=("reference",)
                )
            verdicts = verdicts_of(path_of(iteration))
            self._compare("", collector, own, initial, verdicts)
            previous = found_rollouts(path_of(iteration - 1), {}) if iteration > 1 else None
            if isinstance(previous, Rollouts) and collector.judge is not None:
                both = _with_text(policy, own), _with_text(policy, previous)
                self.measures.update_against("_previous", StoredJudge(collector.judge, verdicts), *both)

    def result(self) -> dict[str, float]:
        """All measures since the last call."""
        return self.measures.result()

    def _compare(self, suffix: str, collector: Collector, own: Rollouts, other: Rollouts, verdicts: Path) -> None:
        policy = collector.policy
        if collector.judge is not None:
            both = _with_text(policy, own), _with_text(policy, other)
            self.measures.update_against(suffix, StoredJudge(collector.judge, verdicts), *both)
        for name, judge in self.judges.items():
            blind = _with_text(policy, without_rewards(own)), _with_text(policy, without_rewards(other))
            self.measures.update_against(f"{suffix}_{name}", StoredJudge(judge, verdicts), *blind)


def _with_text(policy: Policy, rollouts: Rollouts) -> tuple[Rollouts, list[str]]:
    return rollouts, [texts[0] for texts in policy.text(rollouts.responses)]
