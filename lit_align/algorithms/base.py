"""What all algorithms share: one iteration is one Lightning epoch, and an algorithm is its loss.

The order of an iteration: *begin* (the anchor moves) -> *collect* (sample, judge, score) -> *optimise* -> *evaluate* ->
*checkpoint*. Begin and collect run from the data module's ``train_dataloader``; both are idempotent, keyed by the
module's own ``iteration`` counter, which moves on when the iteration ends.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lit_align.algorithms.collector import Collector, Score
from lit_align.algorithms.evaluator import Evaluator
from lit_align.algorithms.schedules import Schedule, learning_rate_factor
from lit_align.anchors import Anchor, Previous
from lit_align.judges import Judge
from lit_align.models import Policy
from lit_align.sampling import Sampler
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.stages import Stages
from lit_align.types import Prompts, Record, Rollouts

_TRAINING, _EVALUATION = 0, 1  # streams of random numbers that never meet


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """AdamW with a learning rate that suits full fine-tuning; LoRA takes about a hundred times more."""
    return torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0)


class AlignmentModule(L.LightningModule):
    """Base of all algorithms: wiring, no mathematics. A subclass defines :meth:`loss` and its hyper-parameters.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        sampler: How many responses, how long, from which law.
        anchor: How pi_t moves; the previous iterate by default.
        optimizer: Makes the optimiser from the trainable parameters.
        warmup_steps: Optimiser steps over which the learning rate rises linearly from 0.
        schedule: What the learning rate does then: ``constant``, or ``linear`` or ``cosine`` down to 0, over each
            iteration if ``reset_optimizer``, else over the run.
        reset_optimizer: Forget the optimiser's state as each iteration begins, and warm up again: each iteration is an
            optimisation problem of its own.
        eval_judges: Judges that never train and only evaluate: name -> judge, logged as ``val/win_rate_NAME``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "reference"})
    """Which log-probs (and rewards) the loss reads; nothing else is computed."""

    min_group_size: ClassVar[int] = 2

    iteration: Tensor

    def __init__(
        self,
        policy: Policy,
        judge: Judge,
        sampler: Sampler = Sampler(),  # noqa: B008  (frozen)
        anchor: Anchor | None = None,
        optimizer: OptimizerCallable = adamw,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        reset_optimizer: bool = True,
        eval_judges: dict[str, Judge] | None = None,
    ) -> None:
        super().__init__()
        if sampler.group_size < self.min_group_size:
            raise ValueError(
                f"model.sampler.group_size is {sampler.group_size}: {type(self).__name__} compares the responses to a "
                f"prompt with one another and needs at least {self.min_group_size}"
            )
        if "rewards" in self.needs and not judge.has_rewards:
            raise ValueError(f"{type(self).__name__} needs rewards, and the judge {judge.name} only compares")
        self.policy = policy
        self.judge = judge
        self.sampler = sampler
        self.anchor = anchor or Previous()
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.schedule: Schedule = schedule
        self.reset_optimizer = reset_optimizer
        self.stages = Stages(visible=False)
        self.collector = Collector(policy, judge, sampler, self.stages)
        self.evaluator = Evaluator(self.collector, eval_judges or {})
        self.mean_loss = MeanMetric()  # weighted, so a group without comparisons does not count
        self.history: list[dict[str, float]] = []
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self.strict_loading = False  # checkpoints hold the trainable weights only
        self._rollouts: tuple[int, Rollouts] | None = None

    @abstractmethod
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
        """Losses and their weights, one row a prompt; a weight of 0 drops a term.

        Weights may depend on what the judge said, never on the policy: the denominator of an optimiser step is known
        before its first minibatch.
        """

    # ------------------------------------------------------------------ begin and collect

    def encode(self, records: list[Record]) -> Prompts:
        """Records as prompts that fit the context together with the longest response.

        Raises:
            ValueError: One does not.
        """
        prompts = self.policy.encode(records)
        longest = int(prompts.mask.sum(1).argmax())
        tokens = int(prompts.mask[longest].sum())
        if tokens + self.sampler.max_new_tokens > self.policy.context_length:
            raise ValueError(
                f"a prompt has {tokens} tokens and a response up to {self.sampler.max_new_tokens}, more than the "
                f"model's context of {self.policy.context_length}: shorten it or lower model.sampler.max_new_tokens "
                f"({prompts.texts[longest][:60]!r}...)"
            )
        return prompts

    def begin(self) -> None:
        """Start the iteration: the anchor moves."""
        self.stages.prefix = f"iteration {int(self.iteration) + 1}: "
        self.anchor.begin(self.policy, int(self.iteration))

    def collect(self, prompts: Prompts) -> Rollouts:
        """The on-policy sampling hook: an iteration's responses, judged and scored, drawn from pi_t."""
        iteration = int(self.iteration)
        if self._rollouts is None or self._rollouts[0] != iteration:
            path = self.run_folder / "rollouts" / f"iteration-{iteration:04d}-rank{self.global_rank}.parquet"
            with self.inference():
                rollouts = self.collector.collect(
                    prompts, path, self._scores(), seed=mixed_seed(run_seed(), _TRAINING), iteration=iteration
                )
            if iteration == 0:
                self._check_same("policy and reference", rollouts.anchor_token_logps, rollouts.reference_token_logps)
            self._rollouts = iteration, rollouts
        return self._rollouts[1]

    def loss_weights(self, rollouts: Rollouts) -> Float[Tensor, " batch"]:
        """Loss weight of each prompt, known before training: weights do not depend on the policy."""
        stand_in = torch.zeros_like(rollouts.responses.sample_logps)
        with torch.no_grad():
            _, weights = self.loss(replace(rollouts, policy_token_logps=stand_in))
        return weights.flatten(1).sum(1) if weights.dim() > 1 else weights

    @property
    def run_folder(self) -> Path:
        """Where this run keeps everything."""
        return Path(self.trainer.default_root_dir)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Eval mode, no gradients, the trainer's precision; then the mode that was."""
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                yield
        finally:
            self.policy.train(was_training)

    def _scores(self) -> dict[str, Score]:
        scores: dict[str, Score] = {
            "anchor": lambda responses: self.anchor.logps(self.policy, responses),
            "reference": lambda responses: self.policy.logps(responses, "reference"),
        }
        return {name: score for name, score in scores.items() if name in self.needs}

    def setup(self, stage: str) -> None:
        """Check the judges before any weights load."""
        for judge in (self.judge, *self.evaluator.judges.values()):
            judge.check()

    # ------------------------------------------------------------------ optimise

    def configure_model(self) -> None:
        """Load the weights, on the device they will stay on."""
        self.policy.load(self.trainer.strategy.root_device)
        for judge in (self.judge, *self.evaluator.judges.values()):
            judge.to(self.trainer.strategy.root_device)

    def configure_optimizers(self) -> Any:
        """The optimiser over trainable parameters, its learning rate scheduled over each iteration or the run."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        steps = self.trainer.datamodule.steps_per_iteration  # type: ignore[attr-defined]
        if not self.reset_optimizer:
            steps *= self.trainer.max_epochs
        factors = partial(
            learning_rate_factor,
            steps=steps,
            warmup=self.warmup_steps,
            schedule=self.schedule,
            again=self.reset_optimizer,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}

    def on_train_start(self) -> None:
        """Evaluate iteration 0: what the run starts from."""
        self.sampler.warn_if_not_policy()
        if int(self.iteration) or self.history:
            return
        for prompts in self.trainer.datamodule.val_dataloader():  # type: ignore[attr-defined]
            self._evaluate(prompts, completed=0)
            metrics = {f"val/{name}": value for name, value in self.evaluator.result().items()}
            for logger in self.loggers:
                logger.log_metrics(metrics, step=0)
            self.history.append({"iteration": 0.0, **metrics})

    def on_train_epoch_start(self) -> None:
        """Forget the optimiser's state if asked to, and log what was collected."""
        if self.reset_optimizer:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
        assert self._rollouts is not None
        self._log_collected(self._rollouts[1])
        self.log("iteration", float(self.iteration + 1), on_step=False, on_epoch=True)

    def training_step(self, batch: Rollouts, batch_idx: int) -> Tensor:
        """The minibatch's share of the step's loss: sum of weighted losses over the step's total weight."""
        policy_token_logps = self.policy.logps(batch.responses)
        if batch_idx == 0 and not self._has_dropout():
            self._check_same("policy and anchor", policy_token_logps.detach(), batch.anchor_token_logps)
        values, weights = self.loss(replace(batch, policy_token_logps=policy_token_logps))
        assert batch.window_weight is not None
        loss = (values * weights).sum() / batch.window_weight
        if not torch.isfinite(loss):
            raise RuntimeError(f"the loss is {loss.item()} at iteration {int(self.iteration)}, minibatch {batch_idx}")
        self.mean_loss.update(values.detach(), weights)
        self.log("train/loss", self.mean_loss, on_step=False, on_epoch=True, batch_size=len(batch))
        self.log("train/loss_step", loss.detach(), on_step=True, on_epoch=False, batch_size=len(batch))
        return loss

    def on_train_epoch_end(self) -> None:
        """The iteration is over: write its row, move the counter on. Checkpoints are saved after this."""
        self.iteration += 1
        metrics = {
            name: float(value)
            for name, value in sorted(self.trainer.callback_metrics.items())
            if name.startswith(("train/", "val/")) and not name.endswith("_step")
        }
        self.history.append({"iteration": float(self.iteration), **metrics})

    # ------------------------------------------------------------------ evaluate

    def validation_step(self, batch: Prompts, batch_idx: int) -> None:
        """Sample and judge held-out prompts; while fitting, before the counter moves on."""
        self._evaluate(batch, completed=int(self.iteration) + int(self.trainer.state.fn == "fit"))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self.log_dict({f"val/{name}": value for name, value in self.evaluator.result().items()})

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Sample and judge test prompts."""
        self._evaluate(batch, completed=int(self.iteration))

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self.log_dict({f"test/{name}": value for name, value in self.evaluator.result().items()})

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[dict[str, Any]]:
        """Responses as text, with the record each answers."""
        with self.inference(), self.stages.stage("sample", len(batch)) as advance:
            responses = self.sampler.sample(
                self.policy,
                batch,
                seed=mixed_seed(run_seed(), _EVALUATION),
                iteration=int(self.iteration),
                report=advance,
            )
        rows = zip(batch.records, self.policy.text(responses), strict=True)
        return [{**record, "responses": texts} for record, texts in rows]

    def _evaluate(self, prompts: Prompts, completed: int) -> None:
        name = "test" if self.trainer.testing else "heldout"
        folder = self.run_folder / "evaluation"
        with self.inference():
            self.evaluator.evaluate(
                prompts.to("cpu"),
                lambda iteration: folder / f"{name}-{iteration:04d}-rank{self.global_rank}.parquet",
                iteration=completed,
                seed=mixed_seed(run_seed(), _EVALUATION),
            )

    # ------------------------------------------------------------------ checkpoints

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What training changes: trainable weights and the iteration counter."""
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad} | {"iteration"}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in kept}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the rows of the table with the weights."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the table; refuse the weights of another model."""
        missing = self.state_dict().keys() - checkpoint["state_dict"].keys()
        if missing:
            raise ValueError(f"the checkpoint is of another model: it has no {sorted(missing)[0]}")
        self.history = checkpoint["history"]

    def _log_collected(self, rollouts: Rollouts) -> None:
        responses = rollouts.responses
        values = {"length": responses.lengths.float().mean(), "truncated": responses.truncated.float().mean()}
        if rollouts.rewards is not None:
            values["reward"] = rollouts.rewards.mean()
        if rollouts.anchor_token_logps is not None and self.sampler.decoding.is_policy:
            # What the sampler drew from against what a scoring pass says: kernels and dtypes, or a bug.
            gap = (responses.sample_logps - rollouts.anchor_token_logps).abs()[responses.mask].max()
            values["sampling_gap"] = gap
        self.log_dict({f"train/{n}": v for n, v in values.items()}, on_step=False, on_epoch=True, batch_size=1)

    def _has_dropout(self) -> bool:
        return any(isinstance(m, torch.nn.Dropout) and m.p > 0 and m.training for m in self.policy.modules())

    def _check_same(self, names: str, first: Tensor | None, second: Tensor | None) -> None:
        """Two policies that should be one and the same agree to rounding."""
        if first is None or second is None:
            return
        gap = float((first - second.to(first.device)).abs().max())
        exact = str(self.trainer.precision).startswith(("32", "64")) and self.policy.dtype == torch.float32
        if gap > (1e-2 if exact else 0.5):
            raise RuntimeError(
                f"{names} should be the same as an iteration begins, but differ by {gap:.3g} nats on a token: are both "
                "loaded in the same precision, and is dropout off?"
            )
