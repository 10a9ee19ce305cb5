"""An iterate is evaluated on held-out prompts, against the initial policy and the iterate before."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from typing_extensions import override

from lit_align.evaluation.heldout import MEASURES, HeldOut, without_rewards
from lit_align.evaluation.metric import Measure, Metric, OwnMetrics
from lit_align.iteration.collector import Collector, Score, judged_text
from lit_align.iteration.heldout_files import HeldOutFiles
from lit_align.iteration.origins import who_judges_of, whose_law
from lit_align.iteration.stages import Relay, Stages
from lit_align.judges.base import Judge
from lit_align.judges.store import StoredJudge
from lit_align.models.policy import Policy
from lit_align.run_folder import verdicts_of
from lit_align.types import Prompts, Rollouts
from lit_align.utils.arguments import note_arguments, noting

ONE = ("policy",)
INITIAL = 0  # at this iteration the policy is the reference, which everything is compared with


class Evaluator(nn.Module, ABC):
    """Measures an iterate.

    Attributes:
        judges: Judges that only evaluate, by name.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a subclass note its arguments."""
        super().__init_subclass__(**kwargs)
        note_arguments(cls)

    @noting
    def __init__(self, judges: dict[str, Judge] | None = None) -> None:
        super().__init__()
        self.judges = judges or {}

    @abstractmethod
    def evaluate(
        self, collector: Collector, prompts: Prompts, files: HeldOutFiles, *, iteration: int, seed: int
    ) -> None:
        """Measure the policy that has completed ``iteration`` iterations; 0 is the initial policy.

        Args:
            collector: Samples, judges and scores; its judge is the training judge.
            prompts: The prompts that are answered.
            files: Say where each iteration's rollouts are, or will be.
            iteration: Iterations completed.
            seed: The seed of the responses; not the training one.
        """

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Return all measures since the last call."""

    def judged(self, judge: Judge | None) -> dict[str, Judge]:
        """Return which measures are a judge's opinion, and whose, given the training judge; by default none is."""
        del judge
        return {}


class HeldOutEvaluator(Evaluator):
    """Draws one response to each held-out prompt and compares it with earlier ones.

    Random numbers are keyed by the iteration: two iterates answer independently, as the win rate asks.

    Args:
        judges: Judges that only evaluate, by name.
        metrics: Measures of your own, by name.

    Raises:
        ValueError: A name would give a column two judges, or two measures.
    """

    def __init__(
        self, judges: dict[str, Judge] | None = None, metrics: Mapping[str, Metric | Measure] | None = None
    ) -> None:
        super().__init__(judges)
        rates = _check_names(self.judges)
        self.measures = HeldOut()
        self.own = OwnMetrics(metrics or {}, {*MEASURES, *rates})

    @override
    def evaluate(
        self, collector: Collector, prompts: Prompts, files: HeldOutFiles, *, iteration: int, seed: int
    ) -> None:
        with collector.stages.stage("evaluate", len(prompts)) as advance:
            quiet = replace(collector, stages=Relay(advance))
            policy = collector.policy
            scores: dict[str, Score] = {
                "anchor": lambda responses: policy.logps(responses, "policy"),
                "reference": lambda responses: policy.logps(responses, "reference"),
            }
            if iteration == INITIAL:
                scores = {}  # the policy is the reference still: its KL is 0, not an estimate of 0
            own = quiet.rollouts_of(
                prompts,
                files.plain(iteration),
                scores,
                seed=seed,
                iteration=iteration,
                sources=ONE,
                chosen=partial(files.chosen, iteration),
            )
            if iteration == INITIAL:
                same = own.responses.sample_logps
                own = replace(own, anchor_token_logps=same, reference_token_logps=same)
            self.measures.update(own)
            self.own.update(*_with_text(policy, collector.judge, own))
            initial = own
            if iteration != INITIAL:
                silent = replace(collector, stages=Stages(visible=False))
                initial = silent.rollouts_of(
                    prompts,
                    files.plain(INITIAL),
                    {},
                    seed=seed,
                    iteration=INITIAL,
                    sources=("reference",),
                    chosen=partial(files.chosen, INITIAL),
                )
            verdicts = verdicts_of(files.plain(iteration))
            self._compare("", collector, own, initial, verdicts)
            law = who_judges_of(collector.judge, prompts) | whose_law(collector.sampler)
            previous = files.found(iteration - 1, law, prompts) if iteration > 1 else None
            if previous is not None and collector.judge is not None:
                both = tuple(_with_text(policy, collector.judge, rollouts) for rollouts in (own, previous))
                self.measures.update_against("_previous", StoredJudge(collector.judge, verdicts), *both)

    @override
    def result(self) -> dict[str, float]:
        return self.measures.result() | self.own.result()

    @override
    def judged(self, judge: Judge | None) -> dict[str, Judge]:
        columns = (*_with_ends("reward"), *_rates(""), *_rates("_previous"))
        own = {} if judge is None else dict.fromkeys(columns, judge)
        return own | {rate: other for name, other in self.judges.items() for rate in _rates(f"_{name}")}

    def _compare(self, suffix: str, collector: Collector, own: Rollouts, other: Rollouts, verdicts: Path) -> None:
        policy = collector.policy
        if collector.judge is not None:
            both = tuple(_with_text(policy, collector.judge, rollouts) for rollouts in (own, other))
            self.measures.update_against(suffix, StoredJudge(collector.judge, verdicts), *both)
        for name, judge in self.judges.items():
            blind = tuple(_with_text(policy, judge, without_rewards(rollouts)) for rollouts in (own, other))
            self.measures.update_against(f"{suffix}_{name}", StoredJudge(judge, verdicts), *blind)


def _rates(suffix: str) -> list[str]:
    """Return the names of a win rate and of the ends of its interval."""
    return _with_ends(f"win_rate{suffix}")


def _with_ends(name: str) -> list[str]:
    return [f"{name}{end}" for end in ("", "_low", "_high")]


def _check_names(names: Collection[str]) -> set[str]:
    """Refuse a judge whose win rate would be in a column of another; return the columns of all."""
    taken = {*_rates(""), *_rates("_previous")}
    for name in names:
        rates = _rates(f"_{name}")
        if not taken.isdisjoint(rates):
            raise ValueError(f"eval_judges: the name {name!r} is taken: its win rate would be in the column of another")
        taken |= set(rates)
    return taken


def _with_text(policy: Policy, judge: Judge | None, rollouts: Rollouts) -> tuple[Rollouts, list[str]]:
    return rollouts, [texts[0] for texts in judged_text(policy, judge, rollouts.responses)]
