"""Autoregressive sampling of groups: each prompt is read once, finished rows are dropped.

The loop knows nothing of any model: it asks a `NextToken` for logits. A Hugging Face model with a key-value cache is
one (models/), a mixture of two policies another.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_align.sampling.decoding import Decoding, draw

_COMPACT = 0.125  # drop finished rows once they are this share of the batch: each drop copies the cache


@runtime_checkable
class NextToken(Protocol):
    """Next-token logits of a batch of sequences that grow one token at a time."""

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read the prompts once; afterwards there are ``group_size`` rows for each, next to one another."""

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append one token to every row."""

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these rows only."""


def generate(
    model: NextToken,
    ids: Int[Tensor, "batch prompt"],
    mask: Bool[Tensor, "batch prompt"],
    uniforms: Float[Tensor, "batch group length"],
    decoding: Decoding,
    eos: Int[Tensor, " ends"],
) -> tuple[Int[Tensor, "batch group length"], Float[Tensor, "batch group length"], Int[Tensor, "batch group"]]:
    """Sample one response for every row of uniforms.

    Args:
        model: Where the logits come from.
        ids: Prompt tokens, left-padded.
        mask: True on prompt tokens.
        uniforms: One number a token; their last dimension is the longest response.
        decoding: The sampling law.
        eos: Token ids that end a response (generation configs have several).

    Returns:
        Token ids (0 after the end), their log-probabilities under the sampling law (0 after the end), and lengths,
        the end-of-sequence token included.
    """
    batch, group, length = uniforms.shape
    rows = torch.arange(batch * group, device=ids.device)  # the row of the result that each live row fills
    flat = uniforms.reshape(batch * group, length)
    tokens = torch.zeros(batch * group, length, dtype=torch.long, device=ids.device)
    logps = torch.zeros(batch * group, length, device=ids.device)
    lengths = torch.full((batch * group,), length, device=ids.device)
    logits = model.prefill(ids, mask, group).repeat_interleave(group, dim=0)
    alive = torch.ones(batch * group, dtype=torch.bool, device=ids.device)
    for position in range(length):
        token, logp = draw(decoding.log_probabilities(logits), flat[rows, position])
        writing = rows[alive]
        tokens[writing, position], logps[writing, position] = token[alive], logp[alive]
        ended = alive & torch.isin(token, eos)
        lengths[rows[ended]] = position + 1
        alive = alive & ~ended
        live = int(alive.sum())
        if live == 0 or position == length - 1:
            break
        if live <= (1 - _COMPACT) * len(rows):
            kept = alive.nonzero().squeeze(-1)
            model.keep(kept)
            rows, token, alive = rows[kept], token[kept], alive[kept]
        logits = model.step(token)
    shape = (batch, group, length)
    return tokens.view(shape), logps.view(shape), lengths.view(batch, group)
