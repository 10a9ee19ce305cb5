"""Means have an interval that respects clusters, for the responses to a prompt are not independent."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat
from typing_extensions import override

from lit_align.evaluation.intervals import ClusteredMean, mean_interval


class Estimate(Metric):
    """Estimates the mean of numbers, with an interval over clusters of coverage ``confidence`` in (0, 1)."""

    values: list[Tensor] | Tensor
    clusters: list[Tensor] | Tensor
    interval: Callable[[ClusteredMean, float], tuple[Tensor, Tensor]] = staticmethod(mean_interval)

    def __init__(self, confidence: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
        self.confidence = confidence
        self.add_state("values", default=[], dist_reduce_fx="cat")
        self.add_state("clusters", default=[], dist_reduce_fx="cat")

    @override
    def update(self, values: Float[Tensor, " terms"], clusters: Int[Tensor, " terms"]) -> None:
        """Add numbers, nan where one is missing, and the id of each one's cluster; those of a cluster may be alike."""
        assert isinstance(self.values, list)
        assert isinstance(self.clusters, list)
        known = ~values.isnan()
        self.values.append(values[known].to(self.device))
        self.clusters.append(clusters.to(values.device)[known].to(self.device))

    @override
    def compute(self) -> Float[Tensor, "3"]:
        """Return ``[mean, low, high]``; all are nan without a number, and the last two with a single cluster."""
        values, clusters = dim_zero_cat(self.values).cpu(), dim_zero_cat(self.clusters).cpu()
        if not len(values):
            return torch.full((3,), torch.nan)
        estimate = ClusteredMean.of(values, clusters)
        return torch.stack([estimate.mean, *self.interval(estimate, self.confidence)])

    def columns(self, name: str) -> dict[str, float]:
        """Return the mean under a name and, if known, the ends with ``_low`` and ``_high`` added; then start afresh."""
        mean, low, high = self.compute().tolist()
        self.reset()
        ends = {f"{name}_low": low, f"{name}_high": high}
        return {name: mean} | {end: value for end, value in ends.items() if value == value}
