"""The lab trains a module on a game and keeps every iterate, for notebooks and laws.

A run holds all copies of the game side by side, so one call gives as many independent seeds.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from tqdm import tqdm
from typing_extensions import override

from lit_align.games.contexts import Contexts
from lit_align.games.policies import EnumerablePolicy
from lit_align.iteration.module import AlignmentModule


@dataclass
class Played:
    """Holds what a run went through; entry 0 is the initial policy."""

    laws: Float[Tensor, "iterates contexts responses"]  # the policy after every iteration
    seconds: Float[Tensor, " iterates"]  # wall-clock from the start of training, without what it takes to record
    # Responses drawn for each context so far; 0 throughout where they were enumerated.
    responses: Float[Tensor, " iterates"]


def play(
    module: AlignmentModule,
    *,
    iterations: int,
    passes: int = 1,
    batch_size: int | None = None,
    gradient_clip: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Played:
    """Train a module on its policy's game.

    Args:
        module: With an `EnumerablePolicy`; its policy is left as training leaves it.
        iterations: Number of iterations.
        passes: Times each iteration's rollouts are gone through.
        batch_size: Contexts in an optimiser step; all by default.
        gradient_clip: Largest norm of a gradient.
        seed: Seed of everything random.
        progress: Show a bar.

    Raises:
        ValueError: The policy cannot be enumerated.
    """
    if not isinstance(module.policy, EnumerablePolicy):
        raise ValueError(f"the lab plays games: {type(module.policy).__name__} is no policy of one")
    record = _Record(iterations, progress)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        L.seed_everything(seed, verbose=False)
        module.keep_rollouts = False
        trainer = L.Trainer(
            default_root_dir=folder,
            max_epochs=iterations,
            accelerator="cpu",
            devices=1,
            gradient_clip_val=gradient_clip,
            callbacks=[record],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module, Contexts(module.policy.game, batch_size=batch_size, passes=passes))
    group = 0 if record.enumerated else module.sampler.group_size
    responses = group * torch.arange(len(record.laws), dtype=torch.float64)
    return Played(torch.stack(record.laws), torch.tensor(record.seconds, dtype=torch.float64), responses)


@dataclass
class _Record(Callback):
    """Keeps the law after every iteration, and a clock that stops meanwhile."""

    iterations: int
    progress: bool
    laws: list[Tensor] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    enumerated: bool = False

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar = tqdm(total=self.iterations, disable=not self.progress, unit="iteration")
        self._start = time.perf_counter()
        self._keep(pl_module)

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        self.enumerated = getattr(batch, "weights", None) is not None

    @override
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._keep(pl_module)
        self._bar.update()

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar.close()

    @torch.no_grad()
    def _keep(self, module: L.LightningModule) -> None:
        now = time.perf_counter()
        assert isinstance(module, AlignmentModule)
        assert isinstance(module.policy, EnumerablePolicy)
        self.laws.append(module.policy.distribution().clone())
        self.seconds.append(now - self._start)
        self._start += time.perf_counter() - now


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's greetings."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
