"""The law a token is drawn from: temperature, top-k, top-p, and the draw itself by inverse CDF."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """How next-token logits become a distribution.

    Attributes:
        max_new_tokens: Longest response, end-of-sequence included.
        temperature: Divides the logits; 1 samples from the policy itself, 0 is greedy.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens with at least this probability, in (0, 1]; 1 keeps all.
        mixture: Weight of the reference in [0, 1] where the policy's and the reference's logits are mixed.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    mixture: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values that have no meaning."""
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
        """Whether the sampling law is the policy itself, as the laws of most algorithms assume."""
        return self.temperature == 1 and self.top_k == 0 and self.top_p == 1

    def log_probabilities(self, logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Log-probabilities of the sampling law, float32; -inf where a token cannot be drawn."""
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
        return logits.log_softmax(-1)


def draw(
    log_probabilities: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """One token a row by inverse CDF, and its log-probability.

    Args:
        log_probabilities: Normalised, -inf where a token cannot be drawn.
        uniforms: In [0, 1), one a row: the same number always gives the same token.

    Returns:
        Token ids and their log-probabilities, nats.
    """
    cdf = log_probabilities.exp().cumsum(-1)
    total = cdf[:, -1:]
    # u * total may round up to total, where no token lies: step back to the number below it.
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, target, right=True)
    return tokens.squeeze(-1), log_probabilities.gather(-1, tokens).squeeze(-1)


def _nucleus(logits: Float[Tensor, "rows vocab"], top_p: float) -> Float[Tensor, "rows vocab"]:
    descending, order = logits.sort(dim=-1, descending=True)
    probabilities = descending.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities  # the most likely token is always kept
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before >= top_p)
    return logits.masked_fill(dropped, -torch.inf)
