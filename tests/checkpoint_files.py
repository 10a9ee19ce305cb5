"""Small checkpoints in a run folder, and whether what is loaded is what was saved."""

import os
from pathlib import Path

import torch

from lit_align import WholeFiles
from lit_align.run_folder import RunFolder
from lit_align.utils.files import replace_link

STATE = {"state_dict": {"a": torch.arange(600.0), "b": torch.ones(3, dtype=torch.bfloat16)}, "history": [{"x": 0.1}]}


def written(folder: Path, *iterations: int) -> list[Path]:
    """Checkpoints of these iterations, in this order, and ``last.ckpt``."""
    run = RunFolder(folder)
    paths = [run.checkpoint(iteration) for iteration in iterations]
    for age, path in enumerate(paths):
        WholeFiles().save_checkpoint(STATE, path)
        os.utime(path, ns=(age, age))
        replace_link(run.last, path)
    return paths


def same(loaded: dict) -> bool:
    """Whether what was loaded is what was saved."""
    return loaded["history"] == STATE["history"] and all(
        torch.equal(loaded["state_dict"][name], value) for name, value in STATE["state_dict"].items()
    )
