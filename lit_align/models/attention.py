"""A model's attention may be replaced by another, where nothing else in the model mixes tokens."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import AttentionInterface

from lit_align.compat import attention_of, set_attention

_OF_OTHERS = frozenset(
    {"position_ids", "use_cache", "cache_position", "is_causal", "output_attentions", "output_hidden_states"}
    | {"output_router_logits"}
)
"""Models pass these arguments on to their attention, which does not read them."""

Attention = Callable[..., tuple[Tensor, None]]
"""Such an attention takes module, query, key, value, mask and more; it gives ``[batch, seq, heads, width]``."""


def check_known(arguments: dict[str, Any]) -> None:
    """Refuse further arguments of a model's attention that a replacement does not know.

    Raises:
        ValueError: One of them may change the scores.
    """
    unknown = sorted(name for name, value in arguments.items() if value is not None and name not in _OF_OTHERS)
    if unknown:
        raise ValueError(f"its attention is told {unknown[0]}, which this one does not know")


@contextmanager
def replaced_attention(config: Any, name: str, attention: Attention) -> Iterator[None]:
    """Let all layers of the model with this config attend by a function inside, registered under a name."""
    AttentionInterface.register(name, attention)
    usual = attention_of(config)
    set_attention(config, name)
    try:
        yield
    finally:
        set_attention(config, usual)
