"""Tokens are sampled by inverse CDF from logits changed by temperature, top-k and top-p."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lit_align.utils.arguments import check_finite

_BLOCK = 256  # so many tokens of the vocabulary are summed together


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Defines the sampling law; a :class:`~lit_align.sampling.sampler.Sampler` has these settings too.

    Attributes:
        max_new_tokens: Longest response in tokens, >= 1, end-of-sequence included; longer ones are cut.
        temperature: Divides the logits, >= 0; 0 is greedy, 1 samples from the policy itself, which algorithms assume.
        top_k: Keeps the k most likely tokens, >= 0; 0 keeps all.
        top_p: Keeps the smallest set of tokens with at least this probability, in (0, 1]; 1 keeps all.
        mixture: Weight of the reference in the mixture of policy and reference, in [0, 1].
    """

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    mixture: float = 0.5

    def __post_init__(self) -> None:
        check_finite(type(self).__name__, vars(self))
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be >= 1, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be >= 0 (0 is greedy), got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be >= 0 (0 keeps every token), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if not 0 <= self.mixture <= 1:
            raise ValueError(f"mixture must lie in [0, 1], got {self.mixture}")

    @property
    def is_policy(self) -> bool:
        """Return whether the sampling law is the policy itself, as most algorithms assume."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1

    def scores(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Return unnormalised log-probs of the sampling law, float32; -inf where a token cannot be sampled."""
        logits = logits.float()
        if self.temperature == 0:
            best = logits.argmax(-1, keepdim=True)
            return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
        if self.temperature != 1:
            logits = logits / self.temperature
        if 0 < self.top_k < logits.shape[-1]:
            smallest = logits.topk(self.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < smallest, -torch.inf)
        if self.top_p < 1:
            logits = _nucleus(logits, self.top_p)
        return logits

    def log_probabilities(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Return log-probs of the sampling law, float32, nats; -inf where a token cannot be sampled."""
        return self.scores(logits).log_softmax(-1)


def draw(
    scores: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Sample one token a row by inverse CDF, and return the ids with their log-probs in nats.

    ``scores`` are unnormalised log-probs, -inf where a token cannot be sampled. The same ``uniforms``, in [0, 1), give
    the same tokens.
    """
    # The blocks of the vocabulary are summed first, then the one block that the number falls into: only one exponential
    # and one sum are as large as the vocabulary.
    rows, vocabulary = scores.shape
    largest = scores.amax(-1, keepdim=True)
    weights = scores.new_empty(rows, -(-vocabulary // _BLOCK), _BLOCK)
    torch.sub(scores, largest, out=weights.view(rows, -1)[:, :vocabulary]).exp_()
    weights.view(rows, -1)[:, vocabulary:] = 0
    ends, total = _rising(weights.sum(-1))
    target = _below(uniforms[:, None] * total, total)
    block = torch.searchsorted(ends, target, right=True)
    begin = torch.where(block > 0, ends.gather(-1, (block - 1).clamp(min=0)), 0)
    inside, mass = _rising(weights.gather(1, block[..., None].expand(-1, -1, _BLOCK)).squeeze(1))
    place = torch.searchsorted(inside, _below(target - begin, mass), right=True)
    tokens = block * _BLOCK + place
    logps = scores.gather(-1, tokens) - largest - total.log()
    return tokens.squeeze(-1), logps.squeeze(-1)


def _rising(weights: Float[Tensor, "rows terms"]) -> tuple[Float[Tensor, "rows terms"], Float[Tensor, "rows 1"]]:
    """Return running sums that rise only where a weight is, although parallel sums round, and the last of them."""
    sums = weights.cumsum(-1).masked_fill(weights == 0, 0).cummax(-1).values
    return sums, sums[:, -1:]


def _below(values: Float[Tensor, "rows 1"], bound: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
    """Return the values, kept below the bound: rounding may reach it, and no token lies there."""
    return torch.minimum(values, torch.nextafter(bound, torch.zeros_like(bound)))


def _nucleus(logits: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    descending, order = logits.sort(dim=-1, descending=True)
    probabilities = descending.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # the most likely token is always kept
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -torch.inf)
