"""Low-rank adapters are made by peft and 4-bit base weights by bitsandbytes; what is made is described here."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_align.compat import keep_four_bits_unpacked


@dataclass
class LoRA:
    """Low-rank adapters (Hu et al., arXiv:2106.09685), made by peft.

    Attributes:
        rank: Rank of each update.
        alpha: The update is scaled by alpha / rank.
        dropout: Dropout on the adapters' input while training.
        target_modules: Module names, or ``all-linear`` for every linear layer but the head.
        layers: Indices of the decoder layers that get adapters; all by default. With the last ones alone the backward
            pass is short.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    layers: list[int] | None = None


def with_adapters(model: Any, lora: LoRA) -> Any:
    """The model with trainable adapters, its own weights frozen."""
    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_linear_names(model) if lora.layers and targets == "all-linear" else targets,
        layers_to_transform=lora.layers,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def nf4(dtype: torch.dtype) -> Any:
    """How bitsandbytes holds the base weights in 4 bits."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # the bits travel as numbers of this type, which FSDP knows how to cut
    )


def prepared_for_adapters(model: Any) -> Any:
    """A 4-bit model made ready to train adapters on."""
    from peft import prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    keep_four_bits_unpacked(model)
    return model


def _linear_names(model: nn.Module) -> list[str]:
    """The last part of the name of every linear module inside the decoder's layers: peft wants names with layers."""
    linear = (name for name, module in model.named_modules() if isinstance(module, nn.Linear) and ".layers." in name)
    return sorted({name.rsplit(".", 1)[-1] for name in linear})
