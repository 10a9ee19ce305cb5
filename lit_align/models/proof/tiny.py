"""An architecture is made small: the same config class and options, few layers, narrow, windows that hide something.

All kinds of layers occur in it. Widths are found by the names that most configs of transformers use; others keep their
size, and where the model is not small then, it is not made.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from torch import nn

VOCABULARY = 64
WINDOW = 4
HEAD = 16
CONTEXT = 128
WIDEST = 1024  # a model of this width, or wider, takes too long to make

_SIZES = {
    "hidden_size n_embd n_embed d_model dim embedding_dim word_embed_proj_dim embed_dim attention_hidden_size": 64,
    "num_attention_heads n_head n_heads attention_heads num_heads linear_num_value_heads mamba_n_heads": 4,
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_kv_heads linear_num_key_heads num_experts_per_tok moe_k": 2,
    "head_dim global_head_dim linear_key_head_dim linear_value_head_dim mamba_d_head v_head_dim": 16,
    "qk_rope_head_dim qk_nope_head_dim kv_lora_rank q_lora_rank time_step_rank mamba_dt_rank": 16,
    "rotary_dim chunk_size mamba_chunk_size": 8,
    "intermediate_size n_inner ffn_dim ffn_hidden_size dff block_ff_dim intermediate_size_mlp": 128,
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size": 128,
    "vocab_size vocab_size_per_layer_input": 64,
}
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length", "context_length")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_DENSE_FIRST = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")
_OF_THE_CHECKPOINT = (
    "transformers_version", "architectures", "dtype", "torch_dtype", "model_type", "quantization_config"
)  # fmt: skip


def tiny_model(config: Any, attention: str, trust_remote_code: bool = False) -> Any | None:
    """Make a small random model of this architecture in float32, in eval mode; None where none can be made.

    The random numbers of the process are left as they were.

    Args:
        config: Config of the model, for text alone.
        attention: Attention implementation of transformers.
        trust_remote_code: Run code that comes with the model.
    """
    from transformers import AutoModelForCausalLM

    options = {"attn_implementation": attention, "dtype": torch.float32}
    if trust_remote_code:
        options["trust_remote_code"] = True
    for shrunk in (_narrow, _shallow):
        with suppress(Exception), torch.random.fork_rng(devices=[]), torch.device("cpu"):  # sizes may not fit
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(shrunk(config), **options).eval()
            for weight in model.parameters():
                if weight.dim() > 1:
                    nn.init.normal_(weight, std=0.2)  # what is read has to make a difference
            model(input_ids=torch.ones(1, 16, dtype=torch.long), use_cache=False)  # this is longer than a window
            return model
    return None


def _narrow(config: Any) -> Any:
    """Leave few layers, each of them small."""
    return _rebuilt(config, _sizes)


def _shallow(config: Any) -> Any:
    """Leave few layers, as wide as they are.

    Raises:
        ValueError: They are wide.
    """
    if config.hidden_size > WIDEST:
        raise ValueError(f"{config.model_type} is {config.hidden_size} wide")
    return _rebuilt(config, lambda options: {"vocab_size": VOCABULARY})


def _rebuilt(config: Any, sizes: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    options = {name: value for name, value in config.to_dict().items() if name not in _OF_THE_CHECKPOINT}
    options |= _fewer_layers(options)
    options |= sizes(options) | _revealing(options)
    options |= {name: int(name != "pad_token_id") for name in options if name.endswith("_token_id")}
    made = type(config)(**options)
    made.name_or_path = config.name_or_path  # the code that comes with the model is looked for there
    return made


def _sizes(options: dict[str, Any]) -> dict[str, Any]:
    """Return small sizes that fit one another."""
    sizes = {
        name: [size] * len(options[name]) if isinstance(options[name], list) else size
        for names, size in _SIZES.items()
        for name in names.split()
        if options.get(name) is not None
    }
    heads = next((options[name] for name in _HEADS if options.get(name)), 1)
    shared = options.get("num_key_value_heads")
    if isinstance(shared, int):
        sizes["num_key_value_heads"] = 1 if shared == 1 else 4 if shared == heads else 2
    if "state_size" in options and "num_heads" in options:  # in Mamba-2, heads times their width are the expanded width
        sizes |= {"num_heads": 64 * int(options.get("expand", 2)) // 16, "n_groups": 1}
    if "mamba_n_heads" in options:
        sizes |= {"mamba_n_heads": 64 * int(options["mamba_expand"]) // 16, "mamba_n_groups": 1}
        sizes |= {"mamba_d_ssm": 64 * int(options["mamba_expand"])} if "mamba_d_ssm" in options else {}
    if options.get("n_group") and options["n_group"] > 1:
        sizes |= {"n_group": 2, "topk_group": 1}
    return sizes


def _fewer_layers(options: dict[str, Any]) -> dict[str, Any]:
    """Leave one layer of each kind, and two at least: lists of layers are cut, and kinds alternate by number."""
    name = next(name for name in _LAYERS if isinstance(options.get(name), int))
    whole = options[name]
    changed: dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, list) and value and key.endswith(("_layer_indices", "_layer_ids", "_idxs")):
            changed[key] = [1]
        elif isinstance(value, int) and key.endswith(("_layer_period", "_interval")):
            changed[key] = min(value, 2)
        elif isinstance(value, int) and (key.endswith("_layer_offset") or key in _DENSE_FIRST):
            changed[key] = min(value, 1)
    if "attention_types" in options:  # GPT-Neo has a pattern of layers and says how often it comes
        (pattern, _), *_ = options["attention_types"]
        return changed | {name: len(pattern), "attention_types": [[pattern, 1]], "attention_layers": list(pattern)}
    lists = {key: value for key, value in options.items() if isinstance(value, list) and len(value) == whole > 1}
    kinds = list(zip(*([str(kind) for kind in kinds] for kinds in lists.values()), strict=True))
    first = sorted(kinds.index(kind) for kind in set(kinds))
    others = [layer for layer in range(whole) if layer not in first]
    kept = sorted(first + others[: max(0, 2 - len(first))])
    return changed | {key: [value[layer] for layer in kept] for key, value in lists.items()} | {name: len(kept)}


def _head(options: dict[str, Any]) -> int:
    """Return how wide a head is."""
    heads = next(options[name] for name in _HEADS if options.get(name))
    return int(options.get("head_dim") or options.get("qk_rope_head_dim") or options["hidden_size"] // heads)


def _revealing(options: dict[str, Any]) -> dict[str, Any]:
    """Make windows narrower than the sequences that are compared, caps that bind, and room for those sequences."""
    changed: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, int) and not isinstance(value, bool):
            if ("window" in name and "max_window" not in name) or name == "attention_chunk_size":
                changed[name] = min(value, WINDOW)
            elif name in _CONTEXT or name == "original_max_position_embeddings":
                changed[name] = CONTEXT
    if options.get("attn_logit_softcapping") is not None:
        changed["attn_logit_softcapping"] = 1.0
    if isinstance(options.get("rope_parameters"), dict):
        changed["rope_parameters"] = _rope(options["rope_parameters"], options)
    return changed


def _rope(parameters: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the same law of positions for narrow heads, in its first regime."""
    changed: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, dict):
            changed[name] = _rope(value, options)
        elif name in ("short_factor", "long_factor"):
            changed[name] = (value * HEAD)[: len(value) * HEAD // _head(options)]
        elif name == "mrope_section":
            changed[name] = [section * HEAD // _head(options) for section in value]
        else:
            changed[name] = CONTEXT if name == "original_max_position_embeddings" else value
    return changed
