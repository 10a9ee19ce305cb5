"""All processes of a run share one run folder, however they were started."""

import os

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.compat import set_default_root_dir

# torchrun, Lightning's own launcher, SLURM and LSF say a process's place in these; the first process has zeros alone.
_PLACES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class OneFolder(Callback):
    """Tells every process which folder the first one has made.

    Loggers and checkpoints of Lightning write from rank 0 alone; whatever else has a place in the run folder finds it
    in ``trainer.default_root_dir``, from ``setup`` on.
    """

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        set_default_root_dir(trainer, trainer.strategy.broadcast(trainer.default_root_dir))


def is_first_process() -> bool:
    """Return whether this process will be rank 0, as far as can be told before the processes know of one another."""
    return all(int(os.environ.get(name) or 0) == 0 for name in _PLACES)
