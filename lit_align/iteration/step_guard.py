"""A step whose loss or gradient is not finite is never taken: the run stops and leaves its minibatch to look at."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    """A loss or a gradient is infinite or not a number."""


@dataclass(frozen=True)
class Watched:
    """A minibatch of the optimiser step under way.

    Attributes:
        number: Of the minibatch in its iteration, from 0.
        rollouts: With the policy's log-probs, without gradient.
        loss: Its share of the step's loss, nats.
    """

    number: int
    rollouts: Rollouts
    loss: float


class FiniteSteps(L.LightningModule):
    """Checks the losses and the gradient of every optimiser step before it is taken, on all ranks together.

    The gradient is checked by its norm, which is that of clipping where gradients are clipped by it.
    """

    policy: Policy
    iteration: Tensor
    keep_rollouts: bool

    def __init__(self) -> None:
        super().__init__()
        self._watched: list[Watched] = []

    def watch(self, number: int, batch: Rollouts, loss: Tensor) -> bool:
        """Remember a minibatch until its step is taken; whether its loss is finite.

        Args:
            number: Of the minibatch in its iteration.
            batch: With the policy's log-probs.
            loss: Its loss, one number.
        """
        assert batch.policy_token_logps is not None
        kept = replace(batch, policy_token_logps=batch.policy_token_logps.detach())
        self._watched.append(Watched(number, kept, float(loss.detach())))
        return math.isfinite(self._watched[-1].loss)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip as Lightning would, and check what is about to be stepped with.

        Raises:
            NonFiniteError: The loss or the gradient is not finite, here or on another rank.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            norm = _number(clip_grad_norm_(parameters, gradient_clip_val))
        else:
            norm = _norm(parameters)
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.check_step(norm)

    def check_step(self, norm: float) -> None:
        """Refuse a step that is not finite.

        Args:
            norm: Of the step's whole gradient.

        Raises:
            NonFiniteError: The loss or the gradient is not finite, here or on another rank.
        """
        strategy, plugin = self.trainer.strategy, self.trainer.precision_plugin
        watched, self._watched = self._watched, []
        bad = [minibatch for minibatch in watched if not math.isfinite(minibatch.loss)]
        # In half precision infinite gradients are expected: the scaler skips the step and scales less.
        scaled = isinstance(plugin, MixedPrecision) and plugin.scaler is not None
        if strategy.reduce_boolean_decision(not bad and (scaled or math.isfinite(norm))):
            return
        by_loss = strategy.reduce_boolean_decision(bool(bad), all=False)
        if by_loss and not bad:
            raise NonFiniteError(f"the loss on another rank is not finite {self._where()}")
        what = f"the loss is {bad[0].loss}" if bad else f"the norm of the gradient is {norm}"
        number = (bad or watched)[0].number if watched else 0
        raise NonFiniteError(
            f"{what} {self._where()}, minibatch {number}; the weights are as before this step"
            f"{self._left(bad or watched)}; a lower learning rate or trainer.gradient_clip_val may help"
        )

    def _where(self) -> str:
        return f"in iteration {int(self.iteration) + 1}, optimiser step {self.trainer.global_step + 1} of the run"

    def _left(self, minibatches: list[Watched]) -> str:
        """Write the minibatches of a step that failed; where they are, for the message."""
        if not self.keep_rollouts:
            return ""
        folder = RunFolder(Path(self.trainer.default_root_dir))
        paths = []
        for minibatch in minibatches:
            rollouts = minibatch.rollouts.to("cpu")
            paths.append(folder.fault(self.trainer.global_step + 1, minibatch.number, self.global_rank))
            save_rollouts(paths[-1], rollouts, self.policy.text(rollouts.responses))
        more = f" and {len(paths) - 1} more there" if len(paths) > 1 else ""
        return f"; prompts, responses, wins and log-probs are in {paths[0]}{more}" if paths else ""


def _norm(parameters: Iterable[Tensor]) -> float:
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    kinds = [[g for g in gradients if isinstance(g, DTensor) is sharded] for sharded in (True, False)]  # never mixed
    return math.hypot(*(_number(get_total_norm(some)) for some in kinds if some))


def _number(norm: Tensor) -> float:
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
