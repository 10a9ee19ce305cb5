"""Lengths alone decide how many responses are read together, so that a plan can ask before weights load."""

from dataclasses import dataclass

TOKENS_AT_ONCE = 2**12  # so many tokens are read together without gradients


@dataclass(frozen=True)
class Layout:
    """Says that each group is split into ``parts`` smaller ones, of which a forward pass reads ``at_once``."""

    parts: int
    at_once: int


def layout_of(
    prompt: int,
    group: int,
    length: int,
    batch: int,
    *,
    unpadded: bool,
    gradients: bool,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> Layout:
    """Return the layout of a batch.

    Args:
        prompt: Tokens of the longest prompt.
        group: Responses to each prompt.
        length: Tokens of the longest response.
        batch: Number of prompts.
        unpadded: The model reads a line of tokens, and not each response behind its prompt in a padded row.
        gradients: The whole batch is read together, for one backward pass.
        tokens_at_once: Most tokens read together without gradients, unless one response has more.
    """
    if unpadded:
        together = group if gradients else max(1, (tokens_at_once - prompt) // length)
        parts = -(-group // together)
    else:
        parts = group
    tokens = prompt + -(-group // parts) * length
    return Layout(parts, batch * parts if gradients else max(1, tokens_at_once // tokens))


def responses_per_row(prompt: int, length: int, group: int) -> int:
    """Return how many responses share a row of queries: as many as have no more tokens than the prompt."""
    return min(group, max(1, prompt // length))
