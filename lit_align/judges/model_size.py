"""A model's config alone tells how much memory a judge takes."""

import torch


def model_bytes(name: str, dtype: torch.dtype) -> float | None:
    """Return the bytes of the weights of a hub id or local folder; None where its config is not there or not known."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except (OSError, ValueError):
        return None
    return float(sum(weight.numel() for weight in model.parameters()) * dtype.itemsize)
