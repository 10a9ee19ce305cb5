"""What cannot be aligned is refused in one line, before its weights load; what loads is whole."""

from pathlib import Path
from typing import Any

import torch

from lit_align.compat import has_sdpa

_BUFFERS = ("inv_freq", "masked_bias", "position_ids", ".attn.bias", ".attention.bias")
"""Ends of names that old checkpoints have beside the weights: the model computes these itself."""


def check_config(config: Any, name: str, attention: str) -> None:
    """Refuse a model that transformers has no causal language model of, or not with this attention.

    Args:
        config: The model's.
        name: The model's, for messages.
        attention: Attention implementation of transformers.

    Raises:
        ValueError: There is none.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):  # code that comes with the model
        return
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"policy.name: {name} is a {config.model_type}, of which there is no causal language model")
    if attention == "sdpa" and not has_sdpa(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]):
        raise ValueError(
            f"policy.attention: {name} is a {config.model_type}, which transformers cannot compute with sdpa: set "
            "model.policy.attention to eager"
        )


def check_vocabulary(config: Any, tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding of.

    Args:
        config: The model's.
        tokenizer: Of transformers.
        name: The model's, for messages.

    Raises:
        ValueError: There are such tokens.
    """
    last, rows = max(tokenizer.get_vocab().values(), default=0), int(config.get_text_config().vocab_size)
    if last >= rows:
        raise ValueError(
            f"policy.name: the tokenizer of {name} has ids up to {last}, and its embedding has {rows} rows: the "
            "tokenizer is of another model, or tokens were added and the model was not resized"
        )


def read_weights(path: str, name: str, **options: Any) -> Any:
    """Read a causal language model with all its weights from files.

    Args:
        path: A hub id or a folder.
        name: What the user calls it, for messages.
        options: They are as for transformers' ``from_pretrained``.

    Raises:
        ValueError: The files are damaged, or do not hold the weights that the config tells of and no others.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, found = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # every format has errors of its own
        said = " ".join(str(error).split())[:300]
        raise ValueError(f"policy.name: {name} does not load: {type(error).__name__}: {said}") from error
    missing = sorted(found["missing_keys"])
    unexpected = sorted(key for key in found["unexpected_keys"] if not key.endswith(_BUFFERS))
    if missing:
        raise ValueError(
            f"policy.name: the files of {name} have no {missing[0]}{_more(missing)}, which its config tells of: they "
            "are of another model, or not all there"
        )
    if unexpected:
        raise ValueError(
            f"policy.name: the files of {name} have {unexpected[0]}{_more(unexpected)}, which a "
            f"{model.config.model_type} does not: they are of another model"
        )
    return model


def stamp_of(path: str) -> tuple[Any, ...]:
    """Return what changes when the files of a model do.

    Args:
        path: A hub id or a folder.
    """
    folder = Path(path)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return path, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
