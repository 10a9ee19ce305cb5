"""The geometric mixture of two policies, token by token, is the opponent of Nash-MD.

[1] R. Munos et al., "Nash Learning from Human Feedback", ICML 2024, arXiv:2312.00886.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_align.sampling.generate import NextToken


@dataclass
class Mixture:
    r"""Mixes two `NextToken` laws to :math:`\propto \pi^{1-c} \pi_{ref}^{c}` at every *token*.

    ``weight`` is c in [0, 1]; 1 is the reference. The mixture of [1] is over whole responses, which does not factorise;
    this is its usual approximation, exact for responses of one token.
    """

    policy: NextToken
    reference: NextToken
    weight: float

    @property
    def admits(self) -> bool:
        """Return whether both admit prompts."""
        return self.policy.admits and self.reference.admits

    def prefill(
        self, ids: Int[Tensor, "batch prompt"], mask: Bool[Tensor, "batch prompt"], group_size: int
    ) -> Float[Tensor, "batch vocab"]:
        """Read the prompts in both, and return the mixed logits."""
        return self._mixed(self.policy.prefill(ids, mask, group_size), self.reference.prefill(ids, mask, group_size))

    def step(self, tokens: Int[Tensor, " rows"]) -> Float[Tensor, "rows vocab"]:
        """Append a token in both, and return the mixed logits."""
        return self._mixed(self.policy.step(tokens), self.reference.step(tokens))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Keep the rows in both."""
        self.policy.keep(rows)
        self.reference.keep(rows)

    def _mixed(self, policy: Tensor, reference: Tensor) -> Tensor:
        dtype = torch.promote_types(policy.dtype, torch.float32)  # logits of half precision are mixed in full
        return ((1 - self.weight) * policy.to(dtype) + self.weight * reference.to(dtype)).log_softmax(-1)
