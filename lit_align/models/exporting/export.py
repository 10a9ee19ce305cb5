"""A policy is written in a format that others read, from its weights alone, and is reloaded and compared first.

What is written is built anew: a base that is loaded afresh and not quantised, and what training has made of it. So a
run's policy, a checkpoint and weights gathered from many devices export in the same way.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_align.models.exporting.card import write_card
from lit_align.models.exporting.reload_check import Agreement, probes
from lit_align.models.loading.adapters import LoRA, with_adapters
from lit_align.models.loading.frozen_update import Factors, attach
from lit_align.models.protocols import DescribedModel, ExportableModel
from lit_align.models.sharding.gather import full_state
from lit_align.run_folder import RunFolder

Kind = Literal["full", "merged", "adapters"]
"""All weights as trained; adapters merged into the base; adapters alone, in the format of peft."""

_WRITTEN = {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}  # no format that runs code when it is read


@dataclass(frozen=True)
class Trained:
    """What training has made of a language model: with the base's name, all there is to export.

    Attributes:
        weights: The trainable weights, whole, by their names in the network.
        frozen_update: The frozen update beside the adapters, by layer.
    """

    weights: Mapping[str, Tensor]
    frozen_update: Mapping[str, Factors]


def trained(network: nn.Module, frozen_update: Mapping[str, Factors]) -> Trained:
    """What training has made of a network; all ranks of a sharded one call it together, and the first has it."""
    return Trained(full_state(network, frozen=False), frozen_update)


def default_kind(policy: DescribedModel) -> Kind:
    """Adapters are merged; all weights are written as they are."""
    return "full" if policy.lora is None else "merged"


def check_kind(policy: DescribedModel, kind: Kind) -> None:
    """Refuse to write what there is not.

    Raises:
        ValueError: Adapters of a run that trained all weights, or the other way round.
    """
    if policy.lora is None and kind != "full":
        raise ValueError(f"--kind {kind}: this run trained all weights and has no adapters: --kind full")
    if policy.lora is not None and kind == "full":
        raise ValueError("--kind full: this run trained adapters: --kind merged writes full weights that have them")


def check_folder(folder: Path, overwrite: bool, run: Path | None = None) -> None:
    """Refuse a place that is taken by anything but an export that may be replaced.

    Args:
        folder: Where an export is to go.
        overwrite: Whether an export that is there may be replaced.
        run: The run that is exported. The place of its own model is free, and no other place in any run is.

    Raises:
        FileExistsError: Something is there that may not be replaced.
    """
    if not _is_taken(folder):
        return
    if not overwrite:
        raise FileExistsError(f"{folder} is not empty: choose another folder, or add --overwrite")
    place = folder.resolve()
    own = None if run is None else RunFolder(run.resolve()).model
    around = next((path for path in place.parents if RunFolder(path).has_begun), None)
    reason = ""
    if Path.cwd().is_relative_to(place):
        reason = "is the working directory or holds it"
    elif RunFolder(place).has_begun:
        reason = "is a run"
    elif any(RunFolder(path.parent).has_begun for path in place.rglob(RunFolder(place).config.name)):
        reason = "holds runs"
    elif around is not None and place != own:
        reason = f"lies in the run {around}"
    elif not is_export(place):
        reason = "is not an export"
    if reason:
        raise FileExistsError(f"{folder} {reason}, and --overwrite replaces exports alone: choose another --output")


def is_export(folder: Path) -> bool:
    """Say whether a folder holds what :func:`export` writes, and nothing else."""
    card = folder / "README.md"
    files = [path for path in folder.rglob("*") if not path.is_dir()]
    return (
        all(path.suffix in _WRITTEN for path in files)
        and card.is_file()
        and "lit_align" in card.read_text(errors="replace")
        and any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    )


def _is_taken(folder: Path) -> bool:
    return folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir())))


def export(
    policy: ExportableModel,
    folder: Path,
    made: Trained,
    kind: Kind,
    *,
    own: Tensor | None = None,
    run: Path | None = None,
    overwrite: bool = False,
) -> Agreement:
    """Write a model, its tokenizer and a card; reload it with plain libraries, compare, and only then put it in place.

    Args:
        policy: The language model that was trained; its weights need not be loaded.
        folder: Where to.
        made: What training has made of it.
        kind: What to write.
        own: Token log-probs of the probes (see `reload_check`) under the policy as the run has it; where there are
            none, or the run's base is quantised, those of the network that is written are computed first.
        run: Run folder that the card tells of.
        overwrite: Replace what is there.

    Returns:
        How well what was reloaded agrees.

    Raises:
        ValueError: The run trained something else.
        FileExistsError: ``folder`` is taken, see :func:`check_folder`.
        RuntimeError: What was reloaded does not give the policy's log-probs, or needs code or pickles to be read;
            nothing is left.
    """
    check_kind(policy, kind)
    check_folder(folder, overwrite, run)
    partial = folder.with_name(f"{folder.name}.partial")
    if any(path.suffix not in _WRITTEN for path in partial.rglob("*") if not path.is_dir()):
        raise FileExistsError(f"{partial} is in the way of the export: move it, or choose another folder")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        expected = own if own is not None and policy.quantization is None else _unmerged(policy, made)
        _write(policy, made, kind, partial)
        agreement = probes(policy).agreement(partial, expected, own, adapters=kind == "adapters")
        write_card(policy, partial, kind, agreement, run)
        _check_files(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return agreement


def restore(network: Any, made: Trained) -> Any:
    """Give a network of the same kind what another was trained to.

    Raises:
        ValueError: The weights are of another model.
    """
    names = {name for name, weight in network.named_parameters() if weight.requires_grad}
    missing = sorted(names - made.weights.keys())
    if missing:
        raise ValueError(f"the checkpoint is of another model: it has no {missing[0]}")
    unexpected = network.load_state_dict({name: weight.cpu() for name, weight in made.weights.items()}, strict=False)[1]
    if unexpected:
        raise ValueError(f"the checkpoint is of another model: that one has {unexpected[0]}")
    return network


@torch.no_grad()
def adapted(base: Any, lora: LoRA, made: Trained) -> Any:
    """A base with adapters that hold the whole of the update, the frozen update of momentum included.

    The factors of both are laid side by side: the sum is exact, and its rank that of both together.
    """
    own = restore(with_adapters(base, lora), made)
    if not made.frozen_update:
        return own
    # Layers of a smaller rank are filled up with zeros: one rank for all, as any reader of peft's format expects.
    rank = lora.rank + max(second.shape[0] for _, second in made.frozen_update.values())
    wide = with_adapters(own.unload(), replace(lora, rank=rank, alpha=float(rank)))
    scale = lora.alpha / lora.rank
    for name, (first, second) in made.frozen_update.items():
        layer = wide.get_submodule(name)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        both = slice(lora.rank, lora.rank + second.shape[0])
        a.zero_()
        b.zero_()
        a[: lora.rank] = made.weights[f"{name}.lora_A.default.weight"].to(a)
        b[:, : lora.rank] = made.weights[f"{name}.lora_B.default.weight"].to(b) * scale
        a[both], b[:, both] = second.to(a), first.to(b)
    return wide


def _write(policy: ExportableModel, made: Trained, kind: Kind, folder: Path) -> None:
    base = policy.base()
    ends = base.generation_config
    if policy.lora is None:
        model = restore(base, made)
    else:
        model = adapted(base, policy.lora, made)
        model = model.merge_and_unload() if kind == "merged" else model
    model.save_pretrained(folder)
    ends.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)


def _unmerged(policy: ExportableModel, made: Trained) -> Tensor:
    """What the policy says of the probes as it runs, adapters beside the weights, but for its base: not quantised."""
    network = policy.base()
    if policy.lora is not None:
        network = with_adapters(network, policy.lora)
        for name, layer in attach(network).items():
            layer.frozen_update = made.frozen_update.get(name)
    return probes(policy).token_logps(restore(network, made).eval())


def _check_files(folder: Path) -> None:
    odd = sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix not in _WRITTEN)
    if odd:
        raise RuntimeError(f"the export has {odd[0]}, which is not a format that is safe to read: nothing was written")
