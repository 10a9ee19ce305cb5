"""A run that cannot fit is refused before its weights load."""

import logging

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.iteration.module import AlignmentModule
from lit_align.models.language_model import LanguageModel
from lit_align.plan.devices import devices_of
from lit_align.plan.plan import plan_of

log = logging.getLogger(__name__)


class MemoryCheck(Callback):
    """Prints in one line what memory the run will take; warns where the device has less, refuses where far less."""

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit" or not isinstance(pl_module, AlignmentModule):
            return
        if not isinstance(pl_module.policy, LanguageModel):
            return
        data = pl_module.data
        pl_module.meet(data, fits=True)
        try:
            plan = plan_of(
                pl_module, data, devices_of(trainer), prompts=data.prompts(0), iterations=trainer.max_epochs or 1
            )
        except (OSError, ValueError) as error:  # a model that is not understood can still be trained
            if trainer.is_global_zero:
                print(f"memory: not planned ({error})")
            return
        if trainer.is_global_zero:
            print(plan)
        doubt = plan.check()
        if doubt and trainer.is_global_zero:
            log.warning(doubt)
