"""Win rate with an interval that respects prompts: responses to one prompt are not independent."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat


class WinRate(Metric):
    """Mean P(policy beats opponent), with a percentile bootstrap interval that resamples whole prompts.

    ``compute`` returns ``[rate, low, high]``.

    Args:
        confidence: Coverage of the interval, in (0, 1).
        resamples: Bootstrap resamples; their seed is fixed, so the same wins give the same interval.
        kwargs: Passed on to torchmetrics.
    """

    wins: list[Tensor] | Tensor
    prompts: list[Tensor] | Tensor

    def __init__(self, confidence: float = 0.95, resamples: int = 2000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
        self.confidence = confidence
        self.resamples = resamples
        self.add_state("wins", default=[], dist_reduce_fx="cat")
        self.add_state("prompts", default=[], dist_reduce_fx="cat")

    def update(self, wins: Float[Tensor, " comparisons"], prompts: Int[Tensor, " comparisons"]) -> None:
        """Add comparisons.

        Args:
            wins: P(policy beats opponent), in [0, 1]; nan where the comparison is missing, which is left out.
            prompts: Id of the prompt of each; comparisons with the same id are resampled together.
        """
        assert isinstance(self.wins, list)
        assert isinstance(self.prompts, list)
        known = ~wins.isnan()
        self.wins.append(wins[known].to(self.device))
        self.prompts.append(prompts.to(wins.device)[known].to(self.device))

    def compute(self) -> Float[Tensor, "3"]:
        """The rate and the ends of its interval; nan where every comparison is missing."""
        wins, prompts = dim_zero_cat(self.wins).cpu().double(), dim_zero_cat(self.prompts).cpu()
        if not len(wins):
            return torch.full((3,), torch.nan)
        _, cluster = prompts.unique(return_inverse=True)
        clusters = int(cluster.max()) + 1
        total = torch.zeros(clusters, dtype=torch.float64).index_add(0, cluster, wins)
        count = torch.zeros(clusters, dtype=torch.float64).index_add(0, cluster, torch.ones_like(wins))
        drawn = torch.randint(clusters, (self.resamples, clusters), generator=torch.Generator().manual_seed(0))
        rates = total[drawn].sum(1) / count[drawn].sum(1)
        tail = (1 - self.confidence) / 2
        ends = torch.quantile(rates, torch.tensor([tail, 1 - tail], dtype=torch.float64))
        return torch.cat([(total.sum() / count.sum())[None], ends]).float()
