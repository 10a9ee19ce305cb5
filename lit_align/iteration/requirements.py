"""What an algorithm asks of its sampler, its judge and its data; what does not fit is refused before weights load."""

from typing import ClassVar

from torch.optim import LBFGS, Optimizer

from lit_align.judges.base import Judge
from lit_align.sampling.sampler import Sampler, Slot


class Requirements:
    """Declared by each algorithm, checked for all of them."""

    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "reference"})
    """What the loss reads: log-probs of ``anchor``, ``reference``, ``current``; ``rewards``. Nothing else is made."""

    min_group_size: ClassVar[int] = 2

    roles: ClassVar[tuple[Slot, ...]] = ()
    """Who has to be among the sources of the sampler, where the loss tells the slots of a group apart."""

    takes_pairs: ClassVar[bool] = False
    """Whether labelled pairs that anybody has drawn will do; not where the law asks for responses of pi_t."""

    judge: Judge | None

    def check_slots(self, sampler: Sampler) -> None:
        """Refuse a sampler whose groups are too small, or drawn by others than the loss is about."""
        if sampler.group_size < self.min_group_size:
            raise ValueError(
                f"model.sampler.group_size is {sampler.group_size}: {type(self).__name__} compares the responses to a "
                f"prompt with one another and needs at least {self.min_group_size}"
            )
        if self.roles and set(sampler.sources) != set(self.roles):
            raise ValueError(
                f"{type(self).__name__} needs responses of {' and '.join(dict.fromkeys(self.roles))}: set "
                f"model.sampler.sources, such as [{', '.join(self.roles)}]"
            )

    def check_judge(self, judge: Judge | None) -> None:
        """Refuse a judge that only compares where the loss reads rewards."""
        if "rewards" in self.needs and judge is not None and not judge.has_rewards:
            raise ValueError(f"{type(self).__name__} needs rewards, and the judge {judge.name} only compares")

    def check_samples(self) -> None:
        """Refuse prompts alone where nobody judges the responses to them."""
        if self.judge is None:
            raise ValueError(
                f"{type(self).__name__} has no judge, and prompts alone have no winners: set model.judge, such as "
                "--model.judge RewardFunction --model.judge.function my_rewards.brevity, or train on labelled pairs "
                "with --data PairData"
            )

    def check_optimizer(self, optimizer: Optimizer, devices: int) -> None:
        """Refuse an optimiser that reads the loss, of which each device knows no more than its share.

        Args:
            optimizer: What steps.
            devices: How many average their gradients.
        """
        if devices > 1 and isinstance(optimizer, LBFGS):
            raise ValueError(
                f"LBFGS searches along the loss itself, and each of {devices} devices has its own: set trainer.devices "
                "to 1 or model.optimizer to another, such as torch.optim.AdamW"
            )

    def check_recorded(self, sources: tuple[str, ...], *, rewarded: bool) -> None:
        """Refuse rollouts of another run whose groups the loss cannot read.

        Args:
            sources: Who drew each response of a group.
            rewarded: Whether they have rewards.
        """
        name = type(self).__name__
        if "data" in sources and not self.takes_pairs:
            raise ValueError(f"{name} learns from responses that policies draw, and these are labelled pairs")
        if len(sources) < self.min_group_size:
            raise ValueError(f"{name} needs at least {self.min_group_size} responses to a prompt, and there is one")
        if self.roles and set(sources) != set(self.roles):
            raise ValueError(
                f"{name} needs responses of {' and '.join(dict.fromkeys(self.roles))}, and these are of "
                f"{' and '.join(dict.fromkeys(sources))}"
            )
        if "rewards" in self.needs and not rewarded:
            raise ValueError(f"{name} needs rewards, and there are none: the judge of that run only compares")

    def check_pairs(self, soft: bool) -> None:
        """Refuse labelled pairs where the algorithm's law asks for responses of its own.

        Args:
            soft: Whether a label may be a probability other than 0 and 1.
        """
        del soft
        if not self.takes_pairs:
            raise ValueError(
                f"{type(self).__name__} learns from responses that its own policies draw, PairData has pairs that are "
                "drawn already: set data to PromptPool, or model to a method of pairs such as DPO"
            )
