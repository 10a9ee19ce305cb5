"""Log-probabilities of responses under a Hugging Face causal LM, as few at a time as memory asks for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.models.scoring.packed import in_parts, joined, packed_token_logps, sequences
from lit_align.models.scoring.ragged_attention import takes_tables
from lit_align.models.scoring.unpadded import unpadded_token_logps
from lit_align.types import Responses

Score = Callable[[Any, Responses], Float[Tensor, "batch group length"]]


def token_logps(
    model: Any, responses: Responses, *, tokens_at_once: int = 2**12
) -> Float[Tensor, "batch group length"]:
    """Log pi(y_t | x, y_<t) of every response token, float32, nats, 0 on padding.

    Without gradients nothing is kept, so a few groups at a time, or parts of one, bound the memory.

    Args:
        model: A causal language model.
        responses: On its device, trimmed.
        tokens_at_once: Most tokens read together without gradients, unless one response has more; bounds memory.
    """
    score, count = _way(model, responses, tokens_at_once)
    parts = in_parts(responses, count)
    tokens = parts.prompts.ids.shape[1] + parts.ids[0].numel()
    at_once = len(parts) if torch.is_grad_enabled() else max(1, tokens_at_once // tokens)
    found = [score(model, parts.select(rows.tolist())) for rows in torch.arange(len(parts)).split(at_once)]
    return joined(torch.cat(found), responses.group_size, count)


def _way(model: Any, responses: Responses, tokens_at_once: int) -> tuple[Score, int]:
    """How to score, and in how many parts a group."""
    prompt, group, length = responses.prompts.ids.shape[1], responses.group_size, responses.ids.shape[-1]
    if takes_tables(model):
        at_once = group if torch.is_grad_enabled() else max(1, (tokens_at_once - prompt) // length)
        return unpadded_token_logps, -(-group // at_once)
    computed = model.get_input_embeddings().weight.dtype  # of hidden states: float32 in 4-bit models
    hidden = model.config.get_text_config().hidden_size
    return partial(packed_token_logps, dtype=computed), sequences(prompt, length, group, hidden)
