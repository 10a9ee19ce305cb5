"""A small model has every kind of layer of the large one, and windows that hide something of short sequences."""

import pytest
import torch
from transformers import AutoConfig

from lit_align.models.proof.tiny import tiny_model

FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("kind", "options", "kinds"),
    [
        ("llama", {"num_hidden_layers": 80, "hidden_size": 8192, "num_attention_heads": 64}, None),
        ("gemma3_text", {"num_hidden_layers": 62, "hidden_size": 5376}, {FULL, SLIDING}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 20}, {FULL, SLIDING}),
        ("gpt_oss", {"num_local_experts": 128}, {FULL, SLIDING}),
        ("lfm2", {"num_hidden_layers": 16, "layer_types": [*["conv"] * 12, *[FULL] * 4]}, {"conv", FULL}),
        ("jamba", {"use_mamba_kernels": False}, {"linear_attention", FULL}),
        ("gpt2", {"n_embd": 1600, "n_layer": 48, "n_head": 25}, None),
    ],
)
def test_it_is_small_and_has_layers_of_each_kind(kind, options, kinds):
    model = tiny_model(AutoConfig.for_model(kind, **options), "eager")
    assert sum(weight.numel() for weight in model.parameters()) < 3e5
    assert model.dtype == torch.float32
    assert kinds is None or set(model.config.layer_types) == kinds
    assert len(getattr(model.config, "layer_types", None) or [0, 0]) == 2 == model.config.num_hidden_layers


def test_options_that_change_the_numbers_are_kept_and_windows_are_narrow():
    config = AutoConfig.for_model(
        "gemma2", sliding_window=4096, final_logit_softcapping=12.0, rms_norm_eps=0.1, num_key_value_heads=1
    )
    small = tiny_model(config, "eager").config
    assert (small.final_logit_softcapping, small.rms_norm_eps, small.num_key_value_heads) == (12.0, 0.1, 1)
    assert small.sliding_window == 4
    assert small.attn_logit_softcapping == 1.0


def test_what_cannot_be_built_is_none():
    wide = AutoConfig.for_model("zamba2")
    assert tiny_model(wide, "eager") is None
