"""The diversity of text is measured by the share of n-grams that are distinct.

[1] J. Li, M. Galley, C. Brockett, J. Gao, B. Dolan, "A Diversity-Promoting Objective Function for Neural Conversation
    Models", NAACL 2016, arXiv:1510.03055.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override


class DistinctN(Metric):
    """Divides distinct by all n-grams of ``n`` tokens ([1], distinct-n): 1 if none repeats, or there is none.

    It falls as more text is seen, so compare it only between sets of the same size.
    """

    grams: list[Tensor] | Tensor

    def __init__(self, n: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n = n
        self.add_state("grams", default=[], dist_reduce_fx="cat")

    @override
    def update(self, ids: Int[Tensor, "*any length"], mask: Bool[Tensor, "*any length"]) -> None:
        """Add responses; an n-gram with padding in it does not count."""
        assert isinstance(self.grams, list)
        windows = ids.flatten(0, -2).unfold(-1, self.n, 1) if ids.shape[-1] >= self.n else ids.new_zeros(0, 0, self.n)
        whole = mask.flatten(0, -2).unfold(-1, self.n, 1).all(-1) if len(windows) else windows.new_zeros(0, 0).bool()
        self.grams.append(windows[whole].to(self.device))

    @override
    def compute(self) -> Float[Tensor, ""]:
        grams = dim_zero_cat(self.grams)
        if len(grams) == 0:
            return torch.ones(())
        return torch.tensor(len(grams.unique(dim=0)) / len(grams))
