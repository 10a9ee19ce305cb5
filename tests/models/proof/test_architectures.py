"""Log-probs, gradients and draws of every architecture are those of plain transformers, or the model is refused."""

import shutil
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_align import LanguageModel
from lit_align.sampling.decoding import Decoding
from tests.conftest import WORDS, make_tokenizer
from tests.models.architectures import SHAPE

FULL, SLIDING = "full_attention", "sliding_attention"
HALF = 16  # tokens: where frequencies change
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "head_dim": 8,
    "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "first_k_dense_replace": 1,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": HALF,
    "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
}  # fmt: skip
LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", FULL],
}  # fmt: skip
PLAIN = (
    *("llama", "qwen2", "qwen3", "gemma", "phi", "phi3", "smollm3", "olmo", "olmo2", "cohere", "granite", "helium"),
    *("arcee", "glm", "stablelm", "starcoder2", "seed_oss", "ernie4_5", "nemotron", "persimmon", "gpt2", "gpt_neox"),
    *("opt", "biogpt", "gpt_bigcode"),
)
TABLE: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in PLAIN},
    "mistral": {"sliding_window": 3},
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": MOE,
    "mixtral": {"num_local_experts": 4},
    "phimoe": {"num_local_experts": 4},
    "granitemoe": {"num_local_experts": 4},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v2": LATENT | {"topk_method": "greedy"},
    "deepseek_v3": LATENT,
    "gemma2": {"sliding_window": 3, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 3, "layer_types": [FULL, SLIDING]},
    "exaone4": {"sliding_window": 3, "layer_types": [FULL, SLIDING]},
    "cohere2": {"sliding_window": 3, "layer_types": [FULL, SLIDING]},
    "gpt_oss": {"sliding_window": 3, "num_local_experts": 4, "layer_types": [FULL, SLIDING]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 3, "num_layers": 2, "num_heads": 4},
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "bloom": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 128},
    "falcon": {"alibi": True},
    "xglm": {"ffn_dim": 64, "attention_heads": 4, "num_layers": 2, "d_model": 32},
    "mamba": {"state_size": 4},
    "mamba2": {"state_size": 4, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "lfm2": {"layer_types": ["conv", FULL]},
    "qwen3_next": LINEAR | MOE | {"shared_expert_intermediate_size": 32},
    "qwen3_5_text": LINEAR,
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {"embedding_dim": 32, "num_heads": 4, "num_blocks": 2, "chunkwise_kernel": "chunkwise--native_autograd"},
    "phi3, longrope": {"original_max_position_embeddings": HALF, "rope_parameters": LONGROPE},
    "llama, dynamic": {
        "max_position_embeddings": HALF,
        "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    },
}
OF_OTHER_HEADS = {"falcon", "gpt_bigcode", "gpt_neox", "opt", "biogpt", "gpt2"}
NO_SDPA = {"gpt_neo", "gptj", "codegen", "bloom", "mpt", "rwkv", "xlstm", "mamba"}
OF_OTHER_HEADS |= NO_SDPA
NO_SDPA |= {"gemma2", "gpt_oss", "xglm", "mamba2"}
SLOW = {"mamba2", "jamba", "qwen3_next", "qwen3_5_text", "xlstm"}
STEPWISE = {"llama, dynamic"}  # what comes next depends on how long the sequence is
WAYS = {
    "stablelm": ("padded", "grouped"),
    "nemotron": ("padded", "grouped"),
    "deepseek_v2": ("line", "rows"),
    "deepseek_v3": ("line", "rows"),
    "gpt_neo": ("padded", "prompts"),
    "gptj": ("padded", "rows"),
    "codegen": ("padded", "rows"),
    "bloom": ("padded", "rows"),
    "mpt": ("padded", "prompts"),
    "falcon": ("padded", "rows"),
    "xglm": ("padded", "rows"),
    "mamba": ("padded", "whole"),
    "mamba2": ("padded", "whole"),
    "rwkv": ("padded", "whole"),
    "xlstm": ("padded", "whole"),
    "jamba": ("padded", "grouped"),
    "lfm2": ("padded", "grouped"),
    "qwen3_next": ("padded", "grouped"),
    "qwen3_5_text": ("padded", "grouped"),
}
PROMPTS = [{"prompt": " ".join(WORDS[:2])}, {"prompt": " ".join(WORDS[:18])}, {"prompt": " ".join(WORDS[5:9])}]
LENGTH = 5


def made(name, folder) -> str:
    kind = name.split(",")[0]
    torch.manual_seed(0)
    shape = {
        key: SHAPE[key] for key in SHAPE if not (kind in OF_OTHER_HEADS and key in ("head_dim", "num_key_value_heads"))
    }
    config = AutoConfig.for_model(kind, **(shape | TABLE[name]))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(kind))
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    return str(folder)


def attention_of(kind) -> str:
    return "eager" if kind in NO_SDPA else "sdpa"


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(chat=False).save_pretrained(folder)
    return folder


@pytest.fixture
def model_of(tmp_path, tokenizer_files):
    def model_of(name):
        shutil.copytree(tokenizer_files, tmp_path / "model")
        return made(name, tmp_path / "model")

    return model_of


def plain(folder, attention):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation=attention).eval()


def alone(fresh, responses, *, stepwise=False):
    """Token log-probs, each sequence by a pass of its own; stepwise each token by one of a fresh model."""
    found, model = torch.zeros(responses.ids.shape), fresh()
    for b, k in torch.cartesian_prod(*map(torch.arange, found.shape[:2])).tolist():
        model = fresh() if stepwise else model
        prompt = responses.prompts.ids[b][responses.prompts.mask[b]]
        response = responses.ids[b, k][responses.mask[b, k]]
        ids = torch.cat([prompt, response])[None]
        model(input_ids=ids[:, :1], use_cache=False)  # frequencies of the sequence before are forgotten
        if stepwise:
            rows = [
                model(input_ids=ids[:, :end], use_cache=False).logits[0, -1] for end in range(len(prompt), ids.shape[1])
            ]
            logits = torch.stack(rows)
        else:
            logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        found = found.index_put(
            (torch.tensor(b), torch.tensor(k), torch.arange(len(response))),
            logits.log_softmax(-1).gather(-1, response[:, None])[:, 0],
        )
    return found, model


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in TABLE])
def test_log_probs_gradient_and_draws_are_those_of_plain_transformers(name, model_of):
    folder, attention = model_of(name), attention_of(name)
    policy = LanguageModel(folder, attention=attention)
    policy.load()
    assert (policy.ways.scoring, policy.ways.sampling) == WAYS.get(name, ("line", "grouped"))
    prompts = policy.encode(PROMPTS)
    drawn = policy.sample(prompts, torch.rand(3, 2, LENGTH), Decoding(max_new_tokens=LENGTH), "policy")
    expected, model = alone(lambda: plain(folder, attention), drawn)
    law = expected
    if name in STEPWISE:
        law, _ = alone(lambda: plain(folder, attention), drawn, stepwise=True)
    torch.testing.assert_close(drawn.sample_logps, law.detach(), atol=1e-4, rtol=0)
    found = policy.logps(drawn)
    torch.testing.assert_close(found, expected.detach(), atol=1e-4, rtol=0)
    upstream = torch.randn(found.shape)
    mine, theirs = dict(policy.model.named_parameters()), dict(model.named_parameters())
    gradients = torch.autograd.grad((found * upstream).sum(), list(mine.values()), allow_unused=True)
    wanted = torch.autograd.grad((expected * upstream).sum(), [theirs[key] for key in mine], allow_unused=True)
    for key, a, b in zip(mine, gradients, wanted, strict=True):
        assert (a is None) == (b is None), key
        if b is not None:
            torch.testing.assert_close(
                a, b, atol=1e-4 * max(1.0, float(b.abs().max())), rtol=0, msg=lambda m, key=key: f"{key} {m}"
            )
