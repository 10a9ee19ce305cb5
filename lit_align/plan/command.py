"""``python -m lit_align plan`` prints the table of a config, on devices that need not be here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from typing_extensions import override

from lit_align.iteration.module import AlignmentModule
from lit_align.models.language_model import LanguageModel
from lit_align.models.loading.sizes import is_readable
from lit_align.plan.devices import configured_devices
from lit_align.plan.plan import Plan, plan_of
from lit_align.types import Prompts


class Planner(ABC):
    """Is a trainer that can be asked what memory a run would need."""

    @abstractmethod
    def configured(self) -> "ConfiguredTrainer":
        """Return the settings of this trainer that a plan depends on."""

    def plan(
        self, model: AlignmentModule, datamodule: Any, memory: float | None = None, prompt_tokens: int | None = None
    ) -> Plan:
        """Print the memory that a run needs on each device, before any weights load.

        Args:
            model: The algorithm.
            datamodule: Its data.
            memory: GiB that one device has, where the devices of the config are not here.
            prompt_tokens: Longest prompt, instead of that of the first iteration.

        Raises:
            ValueError: It takes more than 1.5 times that memory; the message says what to type instead.
        """
        trainer = self.configured()
        prompts, unread = trainer.first_prompts(model, datamodule)
        plan = plan_of(
            model,
            datamodule,
            configured_devices(trainer.options, memory),
            prompts=prompts,
            iterations=trainer.max_epochs,
            prompt_tokens=prompt_tokens,
        )
        console = Console()
        console.print(plan.table())
        for line in (*plan.notes(), *unread):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if doubt := plan.check():
            console.print(doubt, highlight=False, soft_wrap=True, markup=False)
        trainer.planned = plan
        return plan


class ConfiguredTrainer(Planner):
    """Answers what a plan, and a data module that is set up, ask of a trainer; it runs nothing and leaves no folder.

    Args:
        options: A trainer's arguments.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.accumulate_grad_batches = int(options.get("accumulate_grad_batches") or 1)
        self.max_epochs = int(options.get("max_epochs") or 1)
        self.world_size = configured_devices(options).count
        self.planned: Plan | None = None

    @override
    def configured(self) -> "ConfiguredTrainer":
        return self

    def first_prompts(self, model: AlignmentModule, data: Any) -> tuple[Prompts | None, list[str]]:
        """Return the first iteration's prompts where they can be read without weights, else the reason why not."""
        data.trainer = self
        if not (isinstance(model.policy, LanguageModel) and is_readable(model.policy)):
            return None, []
        try:
            _ = model.policy.tokenizer
        except (OSError, ValueError) as error:  # a config alone
            return None, [f"prompts were not read, the model has no tokenizer here: {_short(error)}"]
        try:
            data.setup("fit")
            model.meet(data, fits=True)
            return data.prompts(0), []
        except OSError as error:  # no data on this machine
            return None, [f"prompts were not read: {_short(error)}"]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
