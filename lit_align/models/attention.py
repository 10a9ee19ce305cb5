"""A model's attention may be replaced by another, where nothing else in the model mixes tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface

from lit_align.compat import attention_of, set_attention

ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "granite", "phi3"})
"""Model types whose attention is a plain softmax over all that came before, or over a window of it: those that the
tests compare with reading whole sequences. Any other is read and sampled with the attention of transformers."""

Attention = Callable[..., tuple[Tensor, None]]
"""An attention of transformers: module, query, key, value, mask and more to ``[batch, seq, heads, width]``."""


def can_replace_attention(config: Any) -> bool:
    """Whether a model's attention can be replaced."""
    return config.model_type in ARCHITECTURES


@contextmanager
def replaced_attention(config: Any, name: str, attention: Attention) -> Iterator[None]:
    """All layers of a model attend by this function inside.

    Args:
        config: Of the model.
        name: Of the function, in transformers' registry.
        attention: What takes the place.
    """
    AttentionInterface.register(name, attention)
    usual = attention_of(config)
    set_attention(config, name)
    try:
        yield
    finally:
        set_attention(config, usual)
