"""The memory that a judge's model takes, known from its config alone."""

import torch


def model_bytes(name: str, dtype: torch.dtype) -> float | None:
    """Bytes of the weights of a model on the hub or in a folder; None where its config is not there or not known.

    Args:
        name: Hub id or local folder.
        dtype: Dtype of the weights.
    """
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModel.from_config(config)
    except (OSError, ValueError):
        return None
    return float(sum(weight.numel() for weight in model.parameters()) * dtype.itemsize)
