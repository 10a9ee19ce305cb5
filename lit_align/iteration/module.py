"""All algorithms share this: one iteration is one Lightning epoch, and an algorithm is its loss.

The order of an iteration: *begin* (the anchor moves) -> *collect* (sample, judge, score) -> *optimise* -> *evaluate* ->
*checkpoint*. Begin and collect run when Lightning asks for training data, in :meth:`AlignmentModule.minibatches`. Both
are idempotent, keyed by the module's own ``iteration`` counter, which moves on when the iteration ends.
"""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from typing_extensions import override

from lit_align.anchors.base import Anchor
from lit_align.anchors.previous import Previous
from lit_align.data.base import IterationData
from lit_align.data.ranks import gathered
from lit_align.evaluation.metric import Measure, Metric
from lit_align.iteration.collector import Collector, check_sampling, collected_metrics, sampling_gaps
from lit_align.iteration.evaluator import Evaluator, HeldOutEvaluator
from lit_align.iteration.heldout_files import HeldOutFiles
from lit_align.iteration.judged_columns import ColumnJudges, columns_of_others, judge_by_name, without
from lit_align.iteration.minibatches import Minibatches
from lit_align.iteration.optimizers import Schedule, named, scheduled
from lit_align.iteration.origins import who_judges
from lit_align.iteration.python_config import leave_config
from lit_align.iteration.requirements import check_data, check_judge, check_optimizer, check_sampler, tell_given_by
from lit_align.iteration.scores import check_same, full_precision, has_dropout, remembered, scores_of
from lit_align.iteration.stages import Stages
from lit_align.iteration.step_guard import StepGuard, gradient_norm
from lit_align.judges.base import Judge
from lit_align.models.policy import Policy
from lit_align.models.sharding.cut import check_takes_shards, clip_flat, sharding
from lit_align.models.sharding.gather import full_state, is_flat, trainable
from lit_align.run_folder import RunFolder
from lit_align.sampling.sampler import Sampler, Slot
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.types import Prompts, Record, Rollouts
from lit_align.utils.annotations import inherit_annotations
from lit_align.utils.arguments import note_arguments, noting

TRAINING, EVALUATION = 0, 1  # these streams of random numbers never meet


def adamw(parameters: Any) -> torch.optim.Optimizer:
    """Return AdamW with a learning rate that suits full fine-tuning; LoRA takes about a hundred times more."""
    return torch.optim.AdamW(parameters, lr=1e-6, weight_decay=0.0)


class AlignmentModule(L.LightningModule):
    """Wires all algorithms, and has no mathematics: a subclass defines :meth:`loss` and its hyper-parameters.

    A hyper-parameter out of its range is refused with a ValueError.

    Args:
        policy: The policy that is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        sampler: How many responses, how long, and from which policies.
        anchor: How pi_t moves; the previous iterate by default.
        optimizer: Makes the optimiser from the trainable parameters.
        warmup_steps: Optimiser steps over which the learning rate rises linearly from 0.
        schedule: What the learning rate does then: ``constant``, or ``linear`` or ``cosine`` down to 0, over each
            iteration if ``reset_optimizer``, else over the run.
        reset_optimizer: Forget the optimiser's state as each iteration begins, and warm up again: each iteration is an
            optimisation problem of its own.
        eval_judges: Judges that never train and only evaluate: name -> judge, logged as ``val/win_rate_NAME``.
        evaluator: How an iterate is measured, instead of sampling held-out prompts; it has judges of its own.
        keep_rollouts: Write every iteration's rollouts to the run folder; without them, a killed run samples and judges
            its last iteration again.
        metrics: Measures of your own over the held-out responses: name -> function or
            :class:`~lit_align.evaluation.metric.Metric`, logged as ``val/NAME``.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor", "reference"})
    """Names what the loss reads: ``rewards``, log-probs of ``anchor``, ``reference``, ``current``; no more is made."""

    min_group_size: ClassVar[int] = 2

    roles: ClassVar[tuple[Slot, ...]] = ()
    """Names the policies that ``model.sampler.sources`` must have, where the loss tells them apart."""

    takes_pairs: ClassVar[bool] = False
    """Says whether labelled pairs of any origin will do; they will not where the theory asks for responses of pi_t."""

    phases: ClassVar[int] = 1
    """Counts the fits on the rollouts of an iteration, one after the other; each begins with :meth:`begin_phase`."""

    configured: bool = False
    """Says whether a config made it, which is then in the run folder; else it describes itself there."""

    iteration: Tensor

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a config give an algorithm of one's own what the algorithm it extends takes; note what it is given."""
        super().__init_subclass__(**kwargs)
        inherit_annotations(cls)
        note_arguments(cls)

    @noting
    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        sampler: Sampler = Sampler(),  # noqa: B008  (frozen)
        anchor: Anchor | None = None,
        optimizer: OptimizerCallable = adamw,
        warmup_steps: int = 0,
        schedule: Schedule = "constant",
        reset_optimizer: bool = True,
        eval_judges: dict[str, Judge] | None = None,
        evaluator: Evaluator | None = None,
        keep_rollouts: bool = True,
        metrics: dict[str, Metric | Measure] | None = None,
    ) -> None:
        super().__init__()
        self.policy = policy
        self.judge = judge
        self.sampler = sampler
        check_sampler(self, sampler)
        check_judge(self, judge)
        self.anchor = anchor or Previous()
        self.optimizer = optimizer
        if warmup_steps < 0:
            raise ValueError(f"model.warmup_steps must be >= 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps
        self.schedule: Schedule = schedule
        self.reset_optimizer = reset_optimizer
        self.stages = Stages(visible=False)
        self.collector = Collector(policy, judge, sampler, self.anchor, self.stages)
        if evaluator is not None and metrics:
            raise ValueError(
                "model.metrics are measured by the evaluator of held-out responses: leave out model.evaluator, or give "
                "it a HeldOutEvaluator with these metrics"
            )
        self.evaluator = evaluator or HeldOutEvaluator(eval_judges, metrics)
        self.guard = StepGuard(policy)
        self.keep_rollouts = keep_rollouts
        self.mean_loss = MeanMetric()  # it is weighted: a group without comparisons does not count
        self.history: list[dict[str, float]] = []
        self.column_judges: ColumnJudges | None = {}  # for `history`; None where a checkpoint does not say
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self.strict_loading = False  # checkpoints hold the trainable weights only
        self._rollouts: tuple[int, Rollouts] | None = None
        self._last_batch, self._phase = -1, 0
        self._validated = False  # says whether an evaluation has ended since the last row

    @abstractmethod
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch ..."], Float[Tensor, "batch ..."]]:
        """Return losses and their weights, one row a prompt; a weight of 0 drops a term.

        Weights may depend on what the judge said, never on the policy: the denominator of an optimiser step is known
        before its first minibatch.
        """

    def takes_soft_labels(self) -> bool:
        """Say whether a label in doubt is weighed rather than taken for certain."""
        return True

    # ------------------------------------------------------------------ before weights load

    @override
    def setup(self, stage: str) -> None:
        """Check data and judges before any weights load."""
        fits = stage == "fit"
        if fits and not self.configured:
            leave_config(self, self.trainer)
        if fits or isinstance(self.trainer.datamodule, IterationData):  # type: ignore[attr-defined]
            self.meet(self.data, fits=fits)
        said = self.policy.check()
        if said and self.trainer.is_global_zero:
            print(said)
        for judge in self.judges.values():
            judge.check()
        if fits and self.trainer.is_global_zero:
            tell_given_by(self.data.given_by, self.judge)

    def meet(self, data: IterationData, *, fits: bool) -> None:
        """Refuse a policy that cannot be loaded, and data that this algorithm, policy or context cannot take.

        The data are then encoded for the policy; a second call for the same data encodes nothing again. ``fits`` says
        that they are trained on; else they are answered alone. Data that do not suit raise a ValueError.
        """
        if fits:
            check_data(self, data)
        _ = self.policy.context_length  # a missing model is reported before the data are
        self.policy.check()
        data.connect(self.encode, self.policy, self.minibatches)
        if fits:
            data.check_fits()

    @property
    def data(self) -> IterationData:
        """Return the data module of this run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, IterationData):
            raise ValueError(
                f"{type(self).__name__} asks its data for prompts: give the trainer a datamodule such as PromptPool, "
                f"not {'loaders' if data is None else type(data).__name__}"
            )
        return data

    def made_of(self) -> dict[str, str]:
        """Return digests of the policy's model, tokenizer, template and adapters."""
        return self.policy.identity

    # ------------------------------------------------------------------ begin and collect

    def encode(self, records: list[Record]) -> Prompts:
        """Return records as prompts; refuse one that does not fit the context with the longest response."""
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

    def minibatches(self) -> DataLoader[Any]:
        """Begin the iteration, collect its rollouts, and serve this rank's minibatches of them."""
        trainer, iteration = self.trainer, int(self.iteration)
        if trainer.ckpt_path and trainer.max_epochs is not None and 0 <= trainer.max_epochs <= iteration:
            # Lightning asks before it sees that a continued run is over: nothing is collected for it.
            return DataLoader([0])  # type: ignore[arg-type]
        self.begin()
        place = trainer.global_rank, trainer.world_size
        prompts = self.data.prompts(iteration, *place)
        rollouts = self.collect(prompts, self.data.given(prompts, iteration, *place))
        served = Minibatches(
            rollouts,
            self.loss_weights(rollouts),
            batch_size=self.data.batch_size,
            passes=self.data.passes,
            window=trainer.accumulate_grad_batches,
            seed=mixed_seed(run_seed(), iteration),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            phases=self.phases,
        )
        return DataLoader(served, batch_size=None, shuffle=False)

    def begin(self) -> None:
        """Start the iteration: the anchor moves."""
        self.stages.prefix = f"iteration {int(self.iteration) + 1}: "
        self.anchor.begin(self.policy, int(self.iteration))

    def collect(self, prompts: Prompts, given: Rollouts | None = None) -> Rollouts:
        """Return an iteration's responses, judged and scored, drawn from pi_t: the on-policy sampling hook.

        ``prompts`` are those of this rank, and every rank gets the rollouts of all. ``given`` responses to them, which
        are compared already, are scored alone; log-probs recorded with them serve where this run's own policies give
        the same.
        """
        iteration = int(self.iteration)
        if self._rollouts is None or self._rollouts[0] != iteration:
            path = self.run_folder.rollouts(iteration, self.global_rank, self.trainer.world_size)
            scores = scores_of(self.policy, self.anchor, self.needs, same=iteration == 0, exact=self._exact)
            scores, given = remembered(scores, given)
            with self.anchor.gathered(self.policy), self.inference():
                share = self.collector.rollouts_of(
                    prompts,
                    path if self.keep_rollouts else None,
                    scores,
                    seed=mixed_seed(run_seed(), TRAINING),
                    iteration=iteration,
                    given=given,
                    given_by=self.data.given_by,
                )
            rollouts = gathered(share, self.trainer.world_size)
            if iteration == 0:
                anchor, reference = rollouts.anchor_token_logps, rollouts.reference_token_logps
                check_same("policy and reference", anchor, reference, exact=self._exact)
            gaps = sampling_gaps(rollouts, anchor_is_policy=self.anchor.is_policy)
            if gaps is not None and given is None and self.sampler.decoding.is_policy:
                check_sampling(gaps, exact=self._exact)
            self._rollouts = iteration, self.prepare(rollouts)
        return self._rollouts[1]

    def prepare(self, rollouts: Rollouts) -> Rollouts:
        """Add what a loss needs of the whole iteration, such as baselines; by default nothing."""
        return rollouts

    def loss_weights(self, rollouts: Rollouts) -> Float[Tensor, " batch"]:
        """Return the loss weight of each prompt, known before training: weights do not depend on the policy."""
        stand_in = torch.zeros_like(rollouts.responses.sample_logps)
        with torch.no_grad():
            _, weights = self.loss(replace(rollouts, policy_token_logps=stand_in))
        return weights.flatten(1).sum(1) if weights.dim() > 1 else weights

    # ------------------------------------------------------------------ optimise

    @override
    def configure_model(self) -> None:
        """Load the weights, on the device they will stay on, and shard them if the strategy does."""
        cut = sharding(self.trainer.strategy, str(self.trainer.precision))
        if cut is not None:
            check_takes_shards(self.optimizer)
            self.policy.shard(cut)
        self.policy.load(self.trainer.strategy.root_device)
        for judge in self.judges.values():
            judge.to(self.trainer.strategy.root_device)

    @override
    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        check_optimizer(optimizer, self.trainer.world_size)
        if self.schedule == "constant" and not self.warmup_steps:
            return optimizer
        steps = self.data.steps_per_phase * self.phases
        if not self.reset_optimizer:
            steps *= self.trainer.max_epochs or 1
        return scheduled(
            optimizer, steps=steps, warmup=self.warmup_steps, schedule=self.schedule, again=self.reset_optimizer
        )

    @override
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip and check the step; FSDP1 clips by the norm over all ranks itself, which Lightning does not."""
        by_norm = gradient_clip_val if gradient_clip_algorithm in (None, "norm") else None
        norm = clip_flat(self.policy, by_norm) if by_norm else None
        if norm is None:
            norm = gradient_norm([p for group in optimizer.param_groups for p in group["params"]], clip=by_norm)
            if not by_norm:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.guard.check(self.trainer, norm, int(self.iteration), keep=self.keep_rollouts)

    @override
    def on_train_start(self) -> None:
        """Leave no column of the table to two judges, and evaluate iteration 0: what the run starts from."""
        self._empty_columns_of_others()
        if self.trainer.is_global_zero:
            self.sampler.warn_if_not_policy()
        if int(self.iteration) or self.history or not self.trainer.limit_val_batches:
            return
        for prompts in self.data.val_dataloader():
            self.evaluate(prompts, completed=0)
            metrics = {f"val/{name}": value for name, value in self.evaluator.result().items()}
            for logger in self.loggers:
                logger.log_metrics(metrics, step=0)
            self.history.append({"iteration": 0.0, **metrics})

    @override
    def on_train_epoch_start(self) -> None:
        self._last_batch, self._phase = -1, 0
        if self._rollouts is None or self._rollouts[0] != int(self.iteration):
            raise RuntimeError(
                "nothing was collected for this iteration: set trainer.reload_dataloaders_every_n_epochs to 1"
            )
        if self.reset_optimizer:
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()
        self._log_collected(self.rollouts)
        self.log("iteration", float(self.iteration + 1), on_step=False, on_epoch=True, sync_dist=True)

    def begin_phase(self, phase: int) -> None:
        """Begin another fit, with the optimiser's state forgotten."""
        self._phase = phase
        for optimizer in self.trainer.optimizers:
            optimizer.state.clear()

    @override
    def on_train_batch_start(self, batch: Rollouts, batch_idx: int) -> None:
        """Begin another phase if this minibatch does; make its dropout the same each time it is gone through."""
        torch.manual_seed(mixed_seed(run_seed(), TRAINING, int(self.iteration), self.global_rank, batch_idx))
        if batch.phase != self._phase:
            self.begin_phase(batch.phase)

    @override
    def training_step(self, batch: Rollouts, batch_idx: int) -> Tensor:
        """Return the minibatch's share of the step's loss: sum of weighted losses over the step's total weight."""
        policy_token_logps = self.policy.logps(batch.responses)
        again = batch_idx == self._last_batch  # an optimiser with a closure, such as LBFGS, asks several times
        if batch_idx == 0 and not again and self.anchor.is_policy and not has_dropout(self.policy):
            check_same("policy and anchor", policy_token_logps.detach(), batch.anchor_token_logps, exact=self._exact)
        scored = replace(batch, policy_token_logps=policy_token_logps)
        values, weights = self.loss(scored)
        assert batch.window_weight is not None
        loss: Tensor = (values * weights).sum() / batch.window_weight
        if self.guard.watch(batch_idx, scored, loss) and not again:
            self._last_batch = batch_idx
            self.mean_loss.update(values.detach(), weights)
            self.log("train/loss", self.mean_loss, on_step=False, on_epoch=True, batch_size=len(batch))
            self.log("train/loss_step", loss.detach(), on_step=True, on_epoch=False, batch_size=len(batch))
        return loss

    @override
    def on_train_epoch_end(self) -> None:
        """Write the iteration's row and move the counter on; checkpoints are saved after this."""
        self.iteration += 1
        fresh = ("train/", "val/") if self._validated else ("train/",)  # Lightning keeps the values of old evaluations
        self._validated = False
        metrics = {
            name: float(value)
            for name, value in sorted(self.trainer.callback_metrics.items())
            if name.startswith(fresh) and not name.endswith("_step")
        }
        self.history.append({"iteration": float(self.iteration), **metrics})

    # ------------------------------------------------------------------ evaluate

    @property
    def run_folder(self) -> RunFolder:
        """Return the folder that this run keeps everything in."""
        return RunFolder(Path(self.trainer.default_root_dir))

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Enter eval mode, no gradients, the trainer's precision, sharded weights whole; leave all as it was."""
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad(), self.policy.gathered(), self.trainer.precision_plugin.forward_context():
                yield
        finally:
            self.policy.train(was_training)

    @override
    def validation_step(self, batch: Prompts, batch_idx: int) -> None:
        if self.trainer.sanity_checking:  # iteration 0 is evaluated as training starts
            return
        self.evaluate(batch, completed=int(self.iteration) + int(self.trainer.state.fn == "fit"))

    @override
    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        self.log_dict({f"val/{name}": value for name, value in self.evaluator.result().items()}, sync_dist=True)
        self._validated = True

    @override
    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        self.evaluate(batch, completed=int(self.iteration))

    @override
    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.evaluator.result().items()}, sync_dist=True)

    @override
    def predict_step(self, batch: Prompts, batch_idx: int) -> list[dict[str, Any]]:
        """Return responses as text, with the record each answers."""
        with self.inference(), self.stages.stage("sample", len(batch)) as advance:
            responses = self.sampler.respond(
                self.policy,
                batch,
                seed=mixed_seed(run_seed(), EVALUATION),
                iteration=int(self.iteration),
                sources=("policy",) * self.sampler.group_size,
                report=advance,
                halving=self.collector.sampling,
            )
        rows = zip(batch.records, self.policy.text(responses), strict=True)
        return [{**record, "responses": texts} for record, texts in rows]

    def evaluate(self, prompts: Prompts, completed: int) -> None:
        """Let the evaluator measure the policy that has completed so many iterations on these prompts."""
        place, fits = (self.global_rank, self.trainer.world_size), self.trainer.state.fn == "fit"
        files = HeldOutFiles(self.run_folder, *place, test=self.trainer.testing, fits=fits)
        with self.inference():
            self.evaluator.evaluate(
                self.collector,
                prompts.to("cpu"),
                files,
                iteration=completed,
                seed=mixed_seed(run_seed(), EVALUATION),
            )

    # ------------------------------------------------------------------ checkpoints and export

    def export(self, folder: Path) -> None:
        """Write the policy in a format that others read; all ranks call it together."""
        if self.trainer.is_global_zero or self.policy.sharded:
            self.policy.export(folder)

    @override
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return what training changes: trainable weights and the iteration counter."""
        if is_flat(self.policy):  # FSDP1's own hooks copy all that is frozen to the CPU as well
            return {**full_state(self, frozen=False), "iteration": self.iteration}
        kept = {name for name, _ in trainable(self)} | {"iteration"}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in kept}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["judges"] = self.column_judges
        checkpoint["anchor"] = self.anchor.state_dict()
        checkpoint["folded"] = self.policy.frozen_update()
        checkpoint["trained"] = [name for name, _ in trainable(self)]
        if "optimizer_states" in checkpoint:
            states = zip(checkpoint["optimizer_states"], self.trainer.optimizers, strict=True)
            checkpoint["optimizer_states"] = [named(state, optimizer, self) for state, optimizer in states]

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the table; refuse the weights of another model."""
        # By name: a strategy that shards has taken the weights out of the checkpoint by now.
        missing = {name for name, _ in trainable(self)} - set(checkpoint["trained"])
        if missing:
            raise ValueError(f"the checkpoint is of another model: it has no {sorted(missing)[0]}")
        self.history = checkpoint["history"]
        self.column_judges = checkpoint.get("judges")  # version 0.1 did not say
        self.anchor.load_state_dict(checkpoint["anchor"])
        self.policy.set_frozen_update(checkpoint["folded"])

    def _empty_columns_of_others(self) -> None:
        """Leave a run that goes on with another judge a table of that judge alone."""
        trained = self.data.given_by if self.data.gives else who_judges(self.judge)
        judged = self.evaluator.judged(self.judge)
        now = {f"val/{name}": who_judges(judge) for name, judge in judged.items()} | {"train/reward": trained}
        was = self.column_judges
        if was is None:
            by_name = judge_by_name(self.history, self.run_folder, self.trainer.world_size)
            was = {column: by_name for column in now if now[column] == who_judges(self.judge)}
        others = columns_of_others(was, now)
        self.history = without(self.history, others, self.run_folder, tells=self.trainer.is_global_zero)
        self.column_judges = was | {column: judge for column, judge in now.items() if judge}

    def _log_collected(self, rollouts: Rollouts) -> None:
        is_policy, anchored = self.sampler.is_policy, self.anchor.is_policy
        values = collected_metrics(rollouts, is_policy=is_policy, anchor_is_policy=anchored)
        if rollouts.weights is None and rollouts.responses.drawn:
            drawn = rollouts.responses.truncated.numel() * (int(self.iteration) + 1)
            values["responses"] = torch.tensor(float(drawn))
        named = {f"train/{name}": value for name, value in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)

    @property
    def rollouts(self) -> Rollouts:
        """Return what this iteration has collected."""
        assert self._rollouts is not None
        return self._rollouts[1]

    @property
    def judges(self) -> dict[str, Judge]:
        """Return all judges of the run, by name; that of training has an empty one."""
        training = {} if self.judge is None else {"": self.judge}
        return training | self.evaluator.judges

    @property
    def _exact(self) -> bool:
        return full_precision(self.trainer.precision, self.policy.dtype)
