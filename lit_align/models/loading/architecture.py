"""The network that a config describes: which class of transformers makes it, and what it is like without weights."""

from typing import Any

import torch


def class_of(config: Any) -> Any:
    """The class of transformers that loads a checkpoint with this config as a language model.

    Some checkpoints that see and read are known to transformers by their images alone.
    """
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
    )

    kind = type(config)
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def empty_network(config: Any, trust_remote_code: bool = False) -> Any:
    """The network with its head tied where the config says so; its weights have shapes and no numbers.

    Args:
        config: Of transformers.
        trust_remote_code: Run code that comes with the model.
    """
    with torch.device("meta"):
        model = class_of(config).from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model
