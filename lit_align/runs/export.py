"""``python -m lit_align export`` writes a run, or one of its checkpoints, as a model that others read."""

from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from omegaconf import OmegaConf

from lit_align.callbacks.same_run import check_same_policy
from lit_align.models.exporting.export import Trained, check_folder, check_kind, default_kind, export, restore
from lit_align.models.exporting.reload_check import Agreement, probes
from lit_align.models.language_model import LanguageModel
from lit_align.models.policy import Policy
from lit_align.run_folder import RunFolder, whole_checkpoint

_PREFIX = "policy.model."  # a module's weights that begin so are the network's


def export_run(
    run: Path, output: Path, kind: Literal["merged", "adapters", "full"] | None = None, overwrite: bool = False
) -> Agreement:
    """Write a run's policy in Hugging Face format, reload it with plain libraries and compare before saying done.

    Args:
        run: Run folder, whose last whole checkpoint is taken, or a checkpoint in one.
        output: Folder to write.
        kind: ``merged`` adapters in full weights that are not quantised, ``adapters`` alone for peft, or ``full``
            weights of a run that trained them all; by default full weights.
        overwrite: Replace the export that is there, and nothing else.

    Raises:
        FileNotFoundError: There is no checkpoint, or no config beside it.
        ValueError: The run has no such weights, or no language model; its base model is another one by now; the
            checkpoint and all before it are damaged.
        FileExistsError: The folder is taken by something that may not be replaced.
        RuntimeError: What was reloaded is not the policy.
    """
    folder, checkpoint = _located(run)
    policy = configured_policy(folder.config)
    chosen = kind or default_kind(policy)
    check_kind(policy, chosen)
    check_folder(output, overwrite, folder.path)
    check_same_policy(folder, policy)
    made = from_checkpoint(checkpoint)
    policy.load()
    restore(policy.model, made)
    policy.set_frozen_update(dict(made.frozen_update))
    own = probes(policy).of(policy)
    policy.model = policy.frozen = None  # only one copy of the weights fits at a time
    agreement = export(policy, output, made, chosen, own=own, run=folder.path, overwrite=overwrite)
    print(f"{agreement}\n{chosen} weights of {checkpoint}: {output}")
    return agreement


def export_parser(kind: type[ArgumentParser] = ArgumentParser) -> ArgumentParser:
    """Return the command line of :func:`export_run`."""
    parser = kind(description="Write a run's policy in Hugging Face format, reload it and compare.")
    parser.add_argument("run", type=Path, help="Run folder, whose last checkpoint is taken, or a checkpoint in one.")
    parser.add_function_arguments(export_run, skip={"run", "overwrite"})
    parser.add_argument("--overwrite", action="store_true", help="Replace the export that is there, and nothing else.")
    return parser


def configured_policy(config: Path) -> LanguageModel:
    """Build the policy that a run's config describes, and nothing else of it.

    Raises:
        ValueError: It is no language model.
    """
    described: Any = OmegaConf.to_container(OmegaConf.load(config), resolve=True)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Policy, "policy")
    parsed = parser.parse_object({"policy": described["model"]["init_args"]["policy"]})
    policy = parser.instantiate_classes(parsed).policy
    if not isinstance(policy, LanguageModel):
        raise ValueError(f"{config}: the policy is a {type(policy).__name__}; only language models are exported")
    return policy


def from_checkpoint(path: Path) -> Trained:
    """Return what a checkpoint holds of the policy; nothing in it is run."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(_PREFIX)}
    return Trained({name.removeprefix(_PREFIX): value for name, value in weights.items()}, checkpoint["folded"])


def _located(run: Path) -> tuple[RunFolder, Path]:
    folder = RunFolder((run if run.is_dir() else RunFolder.around(run).path).resolve())
    asked = RunFolder(run).last if run.is_dir() else run
    if not (folder.written_checkpoints() if run.is_dir() else run.is_file()):
        raise FileNotFoundError(f"there is no checkpoint {asked}: name a run folder, or a file of its checkpoints/")
    if not folder.config.is_file():
        raise FileNotFoundError(f"there is no {folder.config}, which says what model {asked} is of")
    return folder, whole_checkpoint(asked)
