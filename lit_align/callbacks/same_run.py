"""A run goes on with the model and the prompts it began with, or not at all."""

import json
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from typing_extensions import override

from lit_align.compat import is_between_epochs
from lit_align.data.base import IterationData
from lit_align.iteration.iterated import iterated
from lit_align.models.policy import Policy
from lit_align.run_folder import RunFolder
from lit_align.utils.files import write_text

_WHAT = {
    "model": "the model (its weights, dtype or quantization)",
    "tokenizer": "the tokenizer",
    "template": "the chat template or system message",
    "adapters": "model.policy.lora",
    "train": "the prompts of data.train",
    "heldout": "the prompts of data.heldout",
    "deal": "seed_everything or data.prompts_per_iteration, which deal the prompts",
}


class SameRun(Callback):
    """Writes down what a run is made of, in ``identity.json`` and its checkpoints, and refuses to go on with another.

    Hyper-parameters may change; what responses are drawn from and what they answer may not.
    """

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare prompts and tokenizer, which are there by now, before weights load."""
        path = RunFolder(Path(trainer.default_root_dir)).identity
        found = _identity(trainer, pl_module)
        if path.exists():
            _check(json.loads(path.read_text()), found, str(path.parent))
        elif stage == "fit" and trainer.is_global_zero:
            write_text(path, json.dumps(found, indent=2) + "\n")

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the identity into the checkpoint, which may leave its run folder."""
        checkpoint["identity"] = _identity(trainer, pl_module)

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run, and to go on in the middle of an iteration.

        Raises:
            ValueError: It is one; or a callback of the user's has written it between two steps, from where Lightning
                would go on without evaluating the iteration, counting it, or knowing what it had collected.
        """
        if trainer.state.fn == "fit" and not is_between_epochs(checkpoint):
            raise ValueError("the checkpoint was written in the middle of an iteration: go on from the end of one")
        _check(checkpoint.get("identity", {}), _identity(trainer, pl_module), "the checkpoint's run")


def check_same_policy(folder: RunFolder, policy: Policy) -> None:
    """Refuse a policy whose base, tokenizer, template or adapters are not those that a run began with.

    Args:
        folder: The run. One that has left no identity is not checked.
        policy: The policy as its config describes it now.

    Raises:
        ValueError: Something of it has changed.
    """
    began_with = json.loads(folder.identity.read_text()) if folder.identity.exists() else {}
    changed = _changed(began_with, policy.identity)
    if changed:
        raise ValueError(f"{folder.path} cannot be exported: since it began, {changed}. Put back what it began with")


def _identity(trainer: L.Trainer, module: L.LightningModule) -> dict[str, str]:
    """Return what the run is made of; while fitting the prompts too."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    fits = trainer.state.fn == "fit" and isinstance(data, IterationData)
    return iterated(module).made_of() | (data.identity if fits else {})


def _check(began_with: dict[str, str], found: dict[str, str], run: str) -> None:
    changed = _changed(began_with, found)
    if changed:
        raise ValueError(
            f"{run} cannot go on: {changed}. Give what it began with (see its config.yaml), or begin a new run: "
            "leave out --ckpt_path and --trainer.run"
        )


def _changed(began_with: dict[str, str], found: dict[str, str]) -> str:
    """Say in words what differs; empty where nothing does."""
    names = sorted(name for name in began_with.keys() & found.keys() if began_with[name] != found[name])
    return " and ".join(_WHAT.get(name, name) for name in names) + " changed" if names else ""
