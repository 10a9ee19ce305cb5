"""The responses of ``predict`` become JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from typing_extensions import override

from lit_align.data.ranks import from_all_ranks, order_of_shares
from lit_align.run_folder import RunFolder


class Predictions(BasePredictionWriter):
    """Writes every record with its responses to ``predictions.jsonl`` in the run folder, in the order of the data."""

    def __init__(self) -> None:
        super().__init__(write_interval="batch")

    @override
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
        shares = from_all_ranks(prediction, trainer.world_size)
        if not trainer.is_global_zero:
            return
        rows = [row for share in shares for row in share]
        path = RunFolder(Path(trainer.default_root_dir)).predictions
        with path.open("a" if batch_idx else "w", encoding="utf-8") as file:
            for place in order_of_shares([len(share) for share in shares]):
                file.write(json.dumps(rows[place], ensure_ascii=False, default=str) + "\n")
        print(f"responses: {path}")
