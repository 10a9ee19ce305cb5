"""A folding tells which dimensions of many policies share a preference matrix, and which have their own."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Folding:
    """Lays out policies that share a preference matrix as the rows of one matrix product.

    Twenty policies per matrix then cost one pass over the matrices, which are never copied or expanded.
    """

    shape: torch.Size  # the batch, after broadcasting
    own: list[int]  # dimensions of the batch along which the matrices differ
    shared: list[int]  # dimensions along which they do not

    @classmethod
    def of(cls, policy: Float[Tensor, "*#batch Y"], preference: Float[Tensor, "*#batch Y Y"]) -> "Folding":
        """Return the layout for these two."""
        shape = torch.broadcast_shapes(policy.shape[:-1], preference.shape[:-2])
        matrices = (1,) * (len(shape) - preference.dim() + 2) + tuple(preference.shape[:-2])
        own = [i for i, size in enumerate(matrices) if size != 1]
        return cls(shape, own, [i for i, size in enumerate(matrices) if size == 1])

    def rows(self, law: Float[Tensor, "*#batch Y"]) -> Float[Tensor, "matrix row Y"]:
        """Return the law of each policy, grouped by matrix."""
        responses = law.shape[-1]
        moved = law.expand(*self.shape, responses).permute(*self.own, *self.shared, len(self.shape))
        return moved.reshape(math.prod(self.shape[i] for i in self.own), -1, responses)

    def matrices(self, preference: Float[Tensor, "*#batch Y Y"]) -> Float[Tensor, "matrix Y Y"]:
        """Return one matrix for each group of rows."""
        return preference.reshape(-1, *preference.shape[-2:])

    def unfold(self, rows: Float[Tensor, "matrix row Y"]) -> Float[Tensor, "*batch Y"]:
        """Return the rows in the shape of the batch."""
        order = [*self.own, *self.shared]
        moved = rows.reshape(*(self.shape[i] for i in order), rows.shape[-1])
        return moved.permute(*(order.index(i) for i in range(len(order))), len(order))
