"""A model that cannot be aligned is refused in one line before its weights load."""

from pathlib import Path
from typing import Any

from lit_align.compat import has_sdpa
from lit_align.models.loading.architecture import network_of


def check_config(config: Any, name: str, attention: str) -> None:
    """Refuse a config of which transformers has no causal language model with this attention.

    Raises:
        ValueError: There is none; the message says the model's name.
    """
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):  # the model comes with code of its own
        return
    network = network_of(config)
    if network is None:
        raise ValueError(
            f"model.policy.name: {name} is a {config.model_type}, of which there is no causal language model"
        )
    if attention == "sdpa" and not has_sdpa(network):
        raise ValueError(
            f"model.policy.attention: {name} is a {config.model_type}, which transformers cannot compute with sdpa: "
            "set model.policy.attention to eager"
        )


def check_vocabulary(config: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding of.

    Raises:
        ValueError: There are such tokens; the message says the model's name.
    """
    last, rows = max(tokenizer.get_vocab().values(), default=0), int(config.get_text_config().vocab_size)
    if last >= rows:
        raise ValueError(
            f"model.policy.name: the tokenizer of {name} has ids up to {last}, and its embedding has {rows} rows: the "
            "tokenizer is of another model, or tokens were added and the model was not resized"
        )


def stamp_of(path: str) -> tuple[Any, ...]:
    """Return a key of a hub id or a folder; it changes whenever the files in the folder do."""
    folder = Path(path)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return path, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
