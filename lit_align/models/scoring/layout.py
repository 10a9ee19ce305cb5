"""How many responses are read together: decided from lengths alone, so that a plan can ask before weights load."""

from dataclasses import dataclass

TOKENS_AT_ONCE = 2**12  # read together without gradients


@dataclass(frozen=True)
class Layout:
    """How a batch of groups is read.

    Attributes:
        parts: Smaller groups that each group is split into.
        at_once: Of these, how many are read in one forward pass.
    """

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
    """The layout of a batch.

    Args:
        prompt: Tokens of the longest prompt.
        group: Responses to each prompt.
        length: Tokens of the longest response.
        batch: Prompts.
        unpadded: The model reads a line of tokens, and not each response behind its prompt in a padded row.
        gradients: All is read together, for one backward pass.
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
    """Responses whose attention shares a row of a line's table: as many as have no more tokens than the prompt.

    Args:
        prompt: Tokens of the longest prompt.
        length: Tokens of the longest response that predict another.
        group: Responses.
    """
    return min(group, max(1, prompt // length))
