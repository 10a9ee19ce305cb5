"""An export pads with a token of its own, never with the one that ends a text.

What is trained on the export may tell padding by the token's id: with the end of sequence for padding, a classifier
reads one token before the end, and a fine-tuned model never learns to end.
"""

import copy
import re
from typing import Any

_NAMES = (
    *(r"<\|?pad\|?>", r"\[PAD\]", r"<\|(finetune_right_|vision_)pad(_id)?\|>"),
    *(r"<unk>", r"<\|reserved_special_token_\d+\|>", r"<unused\d+>"),
)
"""Vocabularies have tokens of these patterns that stand for no text; the likeliest patterns come first."""


def with_padding(tokenizer: Any, *configs: Any) -> Any:
    """Return a tokenizer that pads with a token that ends nothing; the same one where its vocabulary has none to spare.

    Args:
        tokenizer: The policy's; it is left as it is, and padding of its own is kept.
        configs: Configs of the model and of generation, which are given the same padding.
    """
    ends = {tokenizer.eos_token_id, *(end for config in configs for end in _ends(config))}
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        free = _free(tokenizer, ends)
        if free is None:
            return tokenizer
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = free
    for config in configs:
        if getattr(config, "pad_token_id", None) in (None, tokenizer.eos_token_id):
            config.pad_token_id = tokenizer.pad_token_id
    return tokenizer


def _ends(config: Any) -> list[int]:
    end = getattr(config, "eos_token_id", None)  # configs of several parts have none
    return [end] if isinstance(end, int) else list(end or ())


def _free(tokenizer: Any, ends: set[int]) -> str | None:
    """Return a token that stands for no text and ends none."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    free = [token for token, number in vocabulary if number not in ends]
    return next((token for name in _NAMES for token in free if re.fullmatch(name, token)), None)
