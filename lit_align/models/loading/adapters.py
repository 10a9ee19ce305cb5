"""Low-rank adapters are made by peft, and 4-bit base weights by bitsandbytes."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch

from lit_align.compat import keep_four_bits_unpacked
from lit_align.models.loading.adapter_targets import ALL_LINEAR, adapter_targets, shortest_names
from lit_align.sampling.uniforms import mixed_seed, run_seed
from lit_align.utils.arguments import check_finite

_STREAM = 0x10A  # prompts, responses and dropout draw from other streams of random numbers


@dataclass
class LoRA:
    """Describes low-rank adapters (Hu et al., arXiv:2106.09685), which peft makes.

    Attributes:
        rank: Rank of each update, >= 1.
        alpha: The update is scaled by alpha / rank; > 0.
        dropout: Dropout on the adapters' input while training, in [0, 1).
        target_modules: Module names, a regular expression for whole names, or ``all-linear`` for every linear layer but
            the head. Embeddings and a head take adapters too; one whose weights both share has its own once merged.
        layers: Indices of the decoder layers that get adapters; all by default. With the last ones alone the backward
            pass is short.

    Raises:
        ValueError: A number is out of its range, or a list is empty.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str | list[str] = ALL_LINEAR
    layers: list[int] | None = None

    def __post_init__(self) -> None:
        check_finite("model.policy.lora", vars(self))
        if self.rank < 1:
            raise ValueError(f"model.policy.lora.rank must be >= 1, got {self.rank}")
        if self.alpha <= 0:
            raise ValueError(f"model.policy.lora.alpha must be > 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.policy.lora.dropout must lie in [0, 1), got {self.dropout}")
        if not self.target_modules:
            raise ValueError("model.policy.lora.target_modules is empty: name modules, or say all-linear")
        if self.layers is not None and not self.layers:
            raise ValueError("model.policy.lora.layers is empty: number layers, or leave it out to adapt all")


def with_adapters(model: Any, lora: LoRA) -> Any:
    """Return the model with trainable adapters, its own weights frozen.

    The random numbers that adapters begin with depend on the run's seed alone, and are the same on all ranks.

    Raises:
        ValueError: The model has no such modules or layers.
    """
    from peft import LoraConfig, get_peft_model

    names = adapter_targets(model, lora.target_modules, lora.layers)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=shortest_names(model, names),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.default_generator.manual_seed(mixed_seed(run_seed(), _STREAM))
        # Adapters lie beside the weights that a head shares with the embedding; an export gives each its own.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        return get_peft_model(model, config)


def nf4(dtype: torch.dtype) -> Any:
    """Return how bitsandbytes holds the base weights in 4 bits."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # the bits travel as numbers of this type, which FSDP knows how to cut
    )


def prepared_for_adapters(model: Any) -> Any:
    """Make a 4-bit model ready to train adapters on."""
    from peft import prepare_model_for_kbit_training

    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    keep_four_bits_unpacked(model)
    return model
