"""An algorithm has requirements of its sampler, judge and data; what does not fit is refused before weights load."""

import logging
from collections.abc import Set
from typing import Protocol, runtime_checkable

from torch.optim import LBFGS, Optimizer

from lit_align.data.base import Given, IterationData
from lit_align.data.rollout_store import Origin, same_judge
from lit_align.iteration.origins import former_judge, who_judges
from lit_align.judges.base import Judge
from lit_align.sampling.sampler import Sampler, Slot

log = logging.getLogger(__name__)


@runtime_checkable
class Algorithm(Protocol):
    """Declares what an algorithm asks for; see :class:`~lit_align.iteration.module.AlignmentModule`."""

    @property
    def needs(self) -> Set[str]:
        """Return what the loss reads."""

    @property
    def min_group_size(self) -> int:
        """Return how many responses to a prompt the loss needs at least."""

    @property
    def roles(self) -> tuple[Slot, ...]:
        """Return the policies that must be in ``model.sampler.sources``."""

    @property
    def takes_pairs(self) -> bool:
        """Return whether labelled pairs of any origin will do."""

    def takes_soft_labels(self) -> bool:
        """Return whether a label in doubt is weighed rather than taken for certain."""

    @property
    def judge(self) -> Judge | None:
        """Return the judge of what is drawn."""


def check_sampler(algorithm: Algorithm, sampler: Sampler) -> None:
    """Refuse a sampler whose groups are too small, or drawn by others than the loss is about."""
    if sampler.group_size < algorithm.min_group_size:
        raise ValueError(
            f"model.sampler.group_size is {sampler.group_size}: {_name(algorithm)} compares the responses to a "
            f"prompt with one another and needs at least {algorithm.min_group_size}"
        )
    if algorithm.roles and set(sampler.sources) != set(algorithm.roles):
        raise ValueError(
            f"{_name(algorithm)} needs responses of {_listed(algorithm.roles)}: set model.sampler.sources, such as "
            f"[{', '.join(algorithm.roles)}]"
        )


def check_judge(algorithm: Algorithm, judge: Judge | None) -> None:
    """Refuse a judge that only compares where the loss reads rewards."""
    if "rewards" in algorithm.needs and judge is not None and not judge.has_rewards:
        raise ValueError(f"{_name(algorithm)} needs rewards, and the judge {judge.name} only compares")


def tell_given_by(given_by: Origin, judge: Judge | None) -> None:
    """Say that what is trained on is the opinion of another judge than this run's, which evaluates.

    ``given_by`` has compared responses that are there already; it is empty where they are drawn, or nobody knows.
    """
    if judge is not None and given_by and not same_judge(given_by, who_judges(judge)):
        log.warning(
            "the recorded verdicts are of %s: they are trained on as they are, and this run's judge evaluates alone",
            former_judge(given_by, who_judges(judge)),
        )


def check_optimizer(optimizer: Optimizer, devices: int) -> None:
    """Refuse an optimiser that reads the loss, of which each of several devices knows no more than its share."""
    if devices > 1 and isinstance(optimizer, LBFGS):
        raise ValueError(
            f"LBFGS searches along the loss itself, and each of {devices} devices has its own: set trainer.devices "
            "to 1 or model.optimizer to another, such as torch.optim.AdamW"
        )


def check_data(algorithm: Algorithm, data: IterationData) -> None:
    """Refuse data that the algorithm cannot learn from: prompts without a judge, or responses it cannot read."""
    all_given = data.gives
    if all_given:
        for given in all_given:
            _check_given(algorithm, given)
    elif algorithm.judge is None:
        raise ValueError(
            f"{_name(algorithm)} has no judge, and prompts alone have no winners: set model.judge, such as "
            "--model.judge RewardFunction --model.judge.function my_rewards.brevity, or train on labelled pairs "
            "with --data PairData"
        )


def _check_given(algorithm: Algorithm, given: Given) -> None:
    name = f"{given.where}{_name(algorithm)}"
    if "data" in given.source and not algorithm.takes_pairs:
        raise ValueError(
            f"{name} learns from responses that its own policies draw, and these are labelled pairs: set data to "
            "PromptPool, or model to a method of pairs such as DPO"
        )
    if given.soft and not algorithm.takes_soft_labels():
        raise ValueError(f"{name} takes every label for certain, and these may be in doubt: set model.pairing to all")
    if len(given.source) < algorithm.min_group_size:
        raise ValueError(
            f"{name} needs at least {algorithm.min_group_size} responses to a prompt, and there are {len(given.source)}"
        )
    if algorithm.roles and set(given.source) != set(algorithm.roles):
        raise ValueError(
            f"{name} needs responses of {_listed(algorithm.roles)}, and these are of {_listed(given.source)}"
        )
    if "rewards" in algorithm.needs and not given.rewarded:
        raise ValueError(f"{name} needs rewards, and there are none: the judge of that run only compares")


def _name(algorithm: Algorithm) -> str:
    return type(algorithm).__name__


def _listed(sources: tuple[str, ...]) -> str:
    return " and ".join(dict.fromkeys(sources))
