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
"""What models pass on to their attention and it does not read."""

Attention = Callable[..., tuple[Tensor, None]]
"""An attention of transformers: module, query, key, value, mask and more to ``[batch, seq, heads, width]``."""


def check_known(arguments: dict[str, Any]) -> None:
    """Refuse to attend in the place of an attention that is told more than ours understands.

    Args:
        arguments: What the model passes on, besides what the attention reads.

    Raises:
        ValueError: One of them may change the scores.
    """
    unknown = sorted(name for name, value in arguments.items() if value is not None and name not in _OF_OTHERS)
    if unknown:
        raise ValueError(f"its attention is told {unknown[0]}, which this one does not know")


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
