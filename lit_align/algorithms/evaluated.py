"""The half of an algorithm that does not learn: an iterate is measured, or answers prompts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from lit_align.algorithms.collector import Collector
from lit_align.algorithms.evaluator import Evaluator
from lit_align.data.shares import share_name
from lit_align.models import Policy
from lit_align.sampling import Sampler
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.stages import Stages
from lit_align.types import Prompts

TRAINING, EVALUATION = 0, 1  # streams of random numbers that never meet


class EvaluatedModule(L.LightningModule):
    """Validation, test and prediction of a policy; the counter of iterations says which iterate it is."""

    policy: Policy
    sampler: Sampler
    stages: Stages
    collector: Collector
    evaluator: Evaluator
    iteration: Tensor
    validated = False  # since the last row of the table

    @property
    def run_folder(self) -> Path:
        """Where this run keeps everything."""
        return Path(self.trainer.default_root_dir)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Eval mode, no gradients, the trainer's precision, sharded weights whole; then all as it was."""
        was_training = self.policy.training
        self.policy.eval()
        try:
            with torch.no_grad(), self.policy.gathered(), self.trainer.precision_plugin.forward_context():
                yield
        finally:
            self.policy.train(was_training)

    def validation_step(self, batch: Prompts, batch_idx: int) -> None:
        """Sample and judge held-out prompts; while fitting, before the counter moves on."""
        self._evaluate(batch, completed=int(self.iteration) + int(self.trainer.state.fn == "fit"))

    def on_validation_epoch_end(self) -> None:
        """Log ``val/*``."""
        self.log_dict({f"val/{name}": value for name, value in self.evaluator.result().items()}, sync_dist=True)
        self.validated = True

    def test_step(self, batch: Prompts, batch_idx: int) -> None:
        """Sample and judge test prompts."""
        self._evaluate(batch, completed=int(self.iteration))

    def on_test_epoch_end(self) -> None:
        """Log ``test/*``."""
        self.log_dict({f"test/{name}": value for name, value in self.evaluator.result().items()}, sync_dist=True)

    def predict_step(self, batch: Prompts, batch_idx: int) -> list[dict[str, Any]]:
        """Responses as text, with the record each answers."""
        with self.inference(), self.stages.stage("sample", len(batch)) as advance:
            responses = self.sampler.sample(
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

    def _evaluate(self, prompts: Prompts, completed: int) -> None:
        name = "test" if self.trainer.testing else "heldout"
        folder = self.run_folder / "evaluation"
        place = self.global_rank, self.trainer.world_size
        with self.inference():
            self.evaluator.evaluate(
                self.collector,
                prompts.to("cpu"),
                lambda iteration: folder / share_name(f"{name}-{iteration:04d}", *place),
                iteration=completed,
                seed=mixed_seed(run_seed(), EVALUATION),
            )
