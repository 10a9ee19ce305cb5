"""A step whose loss or gradient is not finite is never taken: the run stops and leaves its minibatch to look at."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import lightning as L
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from lit_align.data.rollout_store import save_rollouts
from lit_align.models.policy import Policy
from lit_align.run_folder import RunFolder
from lit_align.types import Rollouts


class NonFiniteError(RuntimeError):
    """Tells of a loss or a gradient that is infinite or not a number."""


@dataclass(frozen=True)
class Watched:
    """Holds a minibatch of the optimiser step under way.

    Attributes:
        number: Number of the minibatch in its iteration, from 0.
        rollouts: The minibatch with the policy's log-probs, without gradient.
        loss: Its share of the step's loss, nats.
    """

    number: int
    rollouts: Rollouts
    loss: float


class StepGuard:
    """Checks the losses and the gradient of every optimiser step before it is taken, on all ranks together."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._watched: list[Watched] = []

    def watch(self, number: int, batch: Rollouts, loss: Tensor) -> bool:
        """Remember a minibatch until its step is taken; return whether its loss, one number, is finite."""
        assert batch.policy_token_logps is not None
        kept = replace(batch, policy_token_logps=batch.policy_token_logps.detach())
        self._watched.append(Watched(number, kept, float(loss.detach())))
        return math.isfinite(self._watched[-1].loss)

    def check(self, trainer: L.Trainer, norm: float, iteration: int, *, keep: bool = True) -> None:
        """Refuse a step whose loss or gradient is not finite, here or on another rank, with a :class:`NonFiniteError`.

        ``norm`` is that of the step's whole gradient. ``keep`` writes the minibatches of a step that failed to the run
        folder.
        """
        strategy, plugin = trainer.strategy, trainer.precision_plugin
        watched, self._watched = self._watched, []
        bad = [minibatch for minibatch in watched if not math.isfinite(minibatch.loss)]
        # In half precision infinite gradients are expected: the scaler skips the step and scales less.
        scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
        if strategy.reduce_boolean_decision(not bad and (scaled or math.isfinite(norm))):
            return
        where = f"in iteration {iteration + 1}, optimiser step {trainer.global_step + 1} of the run"
        by_loss = strategy.reduce_boolean_decision(bool(bad), all=False)
        if by_loss and not bad:
            raise NonFiniteError(f"the loss on another rank is not finite {where}")
        what = f"the loss is {bad[0].loss}" if bad else f"the norm of the gradient is {norm}"
        number = (bad or watched)[0].number if watched else 0
        left = self._left(trainer, bad or watched) if keep else ""
        raise NonFiniteError(
            f"{what} {where}, minibatch {number}; the weights are as before this step{left}; a lower learning rate or "
            "trainer.gradient_clip_val may help"
        )

    def _left(self, trainer: L.Trainer, minibatches: list[Watched]) -> str:
        """Write the minibatches of a step that failed; return where they are, for the message."""
        folder = RunFolder(Path(trainer.default_root_dir))
        paths = []
        for minibatch in minibatches:
            rollouts = minibatch.rollouts.to("cpu")
            paths.append(folder.fault(trainer.global_step + 1, minibatch.number, trainer.global_rank))
            save_rollouts(paths[-1], rollouts, self.policy.text(rollouts.responses))
        more = f" and {len(paths) - 1} more there" if len(paths) > 1 else ""
        return f"; prompts, responses, wins and log-probs are in {paths[0]}{more}" if paths else ""


def gradient_norm(parameters: Iterable[Tensor], clip: float | None = None) -> float:
    """Return the norm of the whole gradient, over all shards; where it is clipped, what it was before.

    ``clip`` > 0 is the largest norm that is left; None leaves the gradients as they are.
    """
    if clip:
        return _number(clip_grad_norm_(parameters, clip))
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kinds = [
        [g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (True, False)
    ]  # a norm takes one kind
    return math.hypot(*(_number(get_total_norm(some)) for some in kinds if some))


def _number(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
