"""Tiny random models of several architectures: heads that are tied, apart, biased, scaled and capped, windows."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 28
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, apart": {"model_type": "llama", "tie_word_embeddings": False},
    "phi, bias": {"model_type": "phi"},
    "gemma2, capped": {"model_type": "gemma2", "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
    "cohere, scaled": {"model_type": "cohere", "logit_scale": 0.25},
    "gemma2, windows": {"model_type": "gemma2", "sliding_window": 3, "query_pre_attn_scalar": 8},
    "mistral, window": {"model_type": "mistral", "sliding_window": 4},
    "granite, divided": {"model_type": "granite", "logits_scaling": 4.0},
}


def make(name: str, dtype: torch.dtype = torch.float64, attention: str = "eager") -> Any:
    """A model in eval mode; every bias is random too."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**(SHAPE | ARCHITECTURES[name]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype)
    with torch.no_grad():
        for label, weight in model.named_parameters():
            if label.endswith("bias"):
                weight.normal_()
    return model.eval()
