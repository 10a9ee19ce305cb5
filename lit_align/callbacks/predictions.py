"""Responses of ``predict`` as JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter


class Predictions(BasePredictionWriter):
    """Appends every record with its responses to ``predictions-rankN.jsonl`` in the run folder."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write what the module returned for this batch."""
        path = Path(trainer.default_root_dir) / f"predictions-rank{trainer.global_rank}.jsonl"
        with path.open("a" if batch_idx else "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in prediction)
        if trainer.is_global_zero:
            print(f"responses: {path}")
