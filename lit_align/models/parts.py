"""Long groups in several sequences: attention costs the square of what it reads, reading a prompt again does not."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lit_align.types import Responses


def sequences(prompt: int, length: int, group: int, hidden: int) -> int:
    """In how many sequences to read a group, for the fewest operations.

    A token costs 24 h^2 operations in the linear layers of a decoder of width h, and 4 h n in the attention of a
    sequence of n tokens. Responses of s tokens in all that share one reading of p tokens of prompt then cost
    (p + s) (6 h + p + s) / s a token, up to a factor, which is least at s = sqrt(p (6 h + p)).

    Args:
        prompt: Tokens of the prompt.
        length: Tokens of the longest response.
        group: Responses.
        hidden: Width of the decoder.

    Returns:
        From 1 to ``group``.
    """
    together = round(math.sqrt(prompt * (6 * hidden + prompt)) / max(1, length))
    return -(-group // max(1, together))


def in_parts(responses: Responses, parts: int) -> Responses:
    """Each group as so many groups of equal size, one after the other; the last may have responses without tokens."""
    if parts == 1:
        return responses
    size = -(-responses.group_size // parts)
    missing = parts * size - responses.group_size

    def cut(values: Tensor) -> Tensor:
        filled = F.pad(values, (0, 0) * (values.dim() - 2) + (0, missing))
        return filled.reshape(-1, size, *values.shape[2:])

    return replace(
        responses,
        prompts=responses.prompts.select(torch.arange(len(responses)).repeat_interleave(parts).tolist()),
        ids=cut(responses.ids),
        mask=cut(responses.mask),
        truncated=cut(responses.truncated),
        sample_logps=cut(responses.sample_logps),
    )


def joined(values: Float[Tensor, "parts size length"], group: int, parts: int) -> Float[Tensor, "batch group length"]:
    """What was found for the parts, as whole groups again."""
    return values.reshape(len(values) // parts, -1, values.shape[-1])[:, :group]
