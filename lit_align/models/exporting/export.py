"""A policy is exported in a format that others read, from its weights alone, once it is reloaded and compared.

The base is loaded afresh, not quantised, and takes on the trained weights. So a run's policy, a checkpoint and weights
gathered from many devices export in the same way.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_align.models.exporting.card import write_card
from lit_align.models.exporting.padding import with_padding
from lit_align.models.exporting.reload_check import Agreement, probes
from lit_align.models.loading.adapters import LoRA, with_adapters
from lit_align.models.loading.frozen_update import Factors, attach, factor_weights, factors_of
from lit_align.models.protocols import DescribedModel, ExportableModel
from lit_align.models.sharding.gather import full_state
from lit_align.run_folder import RunFolder

Kind = Literal["full", "merged", "adapters"]
"""An export is all weights as trained, adapters merged into the base, or adapters alone in the format of peft."""

_WRITTEN = {".safetensors", ".json", ".jinja", ".md", ".txt", ".model"}  # none of these runs code when it is read


@dataclass(frozen=True)
class Trained:
    """Holds what training has made of a language model, which with the base's name is all there is to export.

    Attributes:
        weights: The whole trainable weights, by their names in the network.
        frozen_update: The frozen update beside the adapters, by layer.
    """

    weights: Mapping[str, Tensor]
    frozen_update: Mapping[str, Factors]


def trained(network: nn.Module, frozen_update: Mapping[str, Factors]) -> Trained:
    """Return what training has made of a network; all ranks of a sharded one call it, and the first has it."""
    return Trained(full_state(network, frozen=False), frozen_update)


def default_kind(policy: DescribedModel) -> Kind:
    """Return ``merged`` for adapters, and ``full`` where all weights train."""
    return "full" if policy.lora is None else "merged"


def check_kind(policy: DescribedModel, kind: Kind) -> None:
    """Refuse adapters of a run that trained all weights, and the other way round.

    Raises:
        ValueError: The run trained something else.
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
        run: The run that is exported; of all that lies in runs, its own model alone may be replaced.

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
        folder: Where the export goes.
        made: What training has made of the policy.
        kind: What to write, see :func:`check_kind`.
        own: Token log-probs of the probes (see `reload_check`) under the policy as the run has it. Without them, or
            with a quantised base, those of the network that is written are computed first.
        run: Run folder that the card describes.
        overwrite: Replace an export that is there, see :func:`check_folder`.

    Returns:
        How well the reloaded model agrees with the policy.

    Raises:
        ValueError: See :func:`check_kind`.
        FileExistsError: See :func:`check_folder`.
        RuntimeError: The reloaded model does not give the policy's log-probs, or needs code or pickles to be read;
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
        base = policy.base if kind == "adapters" else None
        agreement = probes(policy).agreement(partial, expected, own, base=base)
        write_card(policy, partial, kind, agreement, run)
        _check_files(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return agreement


def restore(network: Any, made: Trained) -> Any:
    """Load trained weights into a network of the same kind, and return it.

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
    """Return a base with adapters that hold the whole update, the frozen update of momentum included.

    The factors of both are laid side by side: the sum is exact, and its rank is the sum of both ranks.
    """
    own = restore(with_adapters(base, lora), made)
    if not made.frozen_update:
        return own
    # Layers of a smaller rank are filled up with zeros, since readers of peft's format expect one rank for all.
    rank = lora.rank + max(second.shape[0] for _, second in made.frozen_update.values())
    before = {name: factors_of(own.get_submodule(name)) for name in made.frozen_update}
    wide = with_adapters(own.unload(), replace(lora, rank=rank, alpha=float(rank)))
    for name, (first, second) in made.frozen_update.items():
        b, a = factor_weights(wide.get_submodule(name))
        both = slice(lora.rank, lora.rank + second.shape[0])
        a.zero_()
        b.zero_()
        b[:, : lora.rank], a[: lora.rank] = before[name]
        a[both], b[:, both] = second.to(a), first.to(b)
    return wide


def untie(network: Any) -> None:
    """Give the head weights of its own where an adapter changes it or the embedding that it shares them with."""
    from peft.tuners.lora import LoraLayer

    base = network.get_base_model()
    pair = base.get_input_embeddings(), base.get_output_embeddings()
    bases = [part.get_base_layer() if isinstance(part, LoraLayer) else part for part in pair]
    shared = bases[1] is not None and bases[0].weight is bases[1].weight
    if shared and any(isinstance(part, LoraLayer) for part in pair):
        bases[1].weight = nn.Parameter(bases[1].weight.detach().clone(), requires_grad=False)
        for config in (base.config, base.config.get_text_config()):
            config.tie_word_embeddings = False


def _write(policy: ExportableModel, made: Trained, kind: Kind, folder: Path) -> None:
    base = policy.base()
    settings = base.generation_config
    ends = list(policy.ends.ids)
    settings.eos_token_id = ends if len(ends) > 1 else ends[0]  # plain transformers is to stop where the policy did
    tokenizer = with_padding(policy.tokenizer, base.config, base.config.get_text_config(), settings)
    if policy.lora is None:
        restore(base, made).save_pretrained(folder)
    else:
        model = adapted(base, policy.lora, made)
        if kind == "merged":
            untie(model)
            model.merge_and_unload().save_pretrained(folder)
        else:
            _name_base(model, policy)
            # The embedding has as many words as before: the adapters need no copy of it.
            model.save_pretrained(folder, save_embedding_layers=False)
    settings.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _name_base(model: Any, policy: DescribedModel) -> None:
    """Let adapters name their base as the config does; what it was loaded from may lie in this machine's cache."""
    for config in model.peft_config.values():
        config.base_model_name_or_path = policy.name
        config.revision = policy.hub["revision"]


def _unmerged(policy: ExportableModel, made: Trained) -> Tensor:
    """Return the policy's log-probs of the probes, with adapters beside the weights and no base quantised."""
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
