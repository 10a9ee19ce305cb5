"""Tiny networks of several shapes, saved as checkpoints: with other names, a shared head, experts, and eyes."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from lit_align.models.loading.architecture import class_of, empty_network
from tests.conftest import make_tokenizer

TEXT: dict[str, Any] = {
    "vocab_size": 28,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_EYES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_IMAGES = {"image_token_id": 20, "video_token_id": 21, "vision_start_token_id": 22, "vision_end_token_id": 23}
KINDS: dict[str, dict[str, Any]] = {
    "llama": TEXT,
    "gpt2": TEXT,
    "opt": TEXT | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "gemma3_text": TEXT | {"head_dim": 8},
    "gemma3": {
        "text_config": TEXT | {"head_dim": 8, "model_type": "gemma3_text"},
        "vision_config": _EYES | {"image_size": 28, "patch_size": 14},
        **{"mm_tokens_per_image": 4, "image_token_index": 20, "boi_token_index": 21, "eoi_token_index": 22},
    },
    "qwen2_vl": {
        "text_config": TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}},
        "vision_config": {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        **_IMAGES,
    },
}
READING = {"gemma3": "model.language_model.layers", "qwen2_vl": "model.language_model.layers"}
"""These are the places of the language layers in networks that also see."""


def config_of(kind: str, **options: Any) -> Any:
    return AutoConfig.for_model(kind, **KINDS[kind] | options)


def network(kind: str, **options: Any) -> Any:
    """Without weights."""
    return empty_network(config_of(kind, **options))


def saved(folder: Path, kind: str, **options: Any) -> str:
    """A checkpoint of random weights with a tokenizer of 28 words."""
    torch.manual_seed(0)
    config = config_of(kind, **options)
    class_of(config).from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)
