"""A config tells which class of transformers makes its network, and what the network is like without weights."""

from typing import Any

import torch


def class_of(config: Any) -> Any:
    """Return the class of transformers that loads a checkpoint with this config as a language model."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

    # Transformers knows some models of images and text as such alone, and not as causal language models.
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or network_of(config) is None
    return AutoModelForCausalLM if known else AutoModelForImageTextToText


def network_of(config: Any) -> Any:
    """Return the class of the network itself; None where transformers has no language model of this config."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    kind = type(config)
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
        return MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    return MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING.get(kind, None)


def empty_network(config: Any, trust_remote_code: bool = False) -> Any:
    """Return the network with its head tied where the config says so; its weights have shapes and no numbers."""
    with torch.device("meta"):
        model = class_of(config).from_config(config, trust_remote_code=trust_remote_code)
    model.tie_weights()
    return model
