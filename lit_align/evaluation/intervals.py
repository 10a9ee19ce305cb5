r"""Intervals of means whose terms come in clusters, such as the responses to a prompt or the prompts of a topic family.

[1] E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
[2] L. D. Brown, T. T. Cai, A. DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16, 2001.
[3] L. Kish, "Survey Sampling", Wiley 1965 (the design effect).

Clusters are taken to be independent draws, their terms alike as they may be. With totals :math:`S_c` of :math:`n_c`
terms, N in all, the variance of the mean m is estimated from what the clusters add to it,

.. math::
    V = \frac{C}{C - 1} \, \frac{\sum_c (S_c - n_c m)^2}{N^2},

and the quantile is Student's for C - 1 degrees of freedom. Where every cluster is a single term these are the usual
variance and the usual t interval.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEW = 3
"""Losses (or wins) up to which an end of a win rate's interval is moved out to that of a Poisson law."""
PRIOR = 1.5
"""Comparisons without a tie that are added to the estimate of a win rate's variance."""
ALIKE = 0.5
"""Clusters whose comparisons are all the same that are added to those that tell how alike comparisons are."""


@dataclass(frozen=True)
class ClusteredMean:
    """A mean of terms in clusters; numbers of equally many such means may stand in one.

    Attributes:
        mean: The mean over terms.
        variance: Estimate of its variance, from the sums of clusters.
        terms: Number of terms.
        alike: Number of clusters of equal size that would be as good if the terms of each were all the same,
            ``terms**2`` over the sum of the squared sizes.
        clusters: Number of clusters.
    """

    mean: Float[Tensor, "*means"]
    variance: Float[Tensor, "*means"]
    terms: int
    alike: float
    clusters: int

    @classmethod
    def of(cls, values: Float[Tensor, " terms"], clusters: Int[Tensor, " terms"]) -> "ClusteredMean":
        """The mean of values.

        Args:
            values: At least one number.
            clusters: Id of the cluster of each.
        """
        values = values.double()
        _, which = clusters.unique(return_inverse=True)
        count = int(which.max()) + 1
        mean, zeros = values.mean(), torch.zeros(count, dtype=torch.float64, device=values.device)
        apart = zeros.index_add(0, which, values - mean)
        sizes = zeros.index_add(0, which, torch.ones_like(values))
        terms = len(values)
        variance = apart.square().sum() / terms**2 * (count / max(count - 1, 1))
        return cls(mean, variance, terms, terms**2 / float(sizes.square().sum()), count)


def mean_interval(
    estimate: ClusteredMean, confidence: float = 0.95
) -> tuple[Float[Tensor, "*means"], Float[Tensor, "*means"]]:
    """Student's interval of a mean of any numbers.

    Args:
        estimate: The mean.
        confidence: Coverage, in (0, 1).

    Returns:
        The lower and the upper end; nan where there is a single cluster, which says nothing of others.
    """
    if estimate.clusters < 2:
        unknown = torch.full_like(estimate.mean, math.nan)
        return unknown, unknown
    half = student_quantile(confidence, estimate.clusters - 1) * estimate.variance.sqrt()
    return estimate.mean - half, estimate.mean + half


def rate_interval(
    estimate: ClusteredMean, confidence: float = 0.95
) -> tuple[Float[Tensor, "*means"], Float[Tensor, "*means"]]:
    r"""Wilson's interval [1] of a mean of numbers in [0, 1], such as wins, with ties and clusters as design effect [3].

    .. math::
        \frac{|m - p|}{\sqrt{p (1 - p) / n}} \le t, \quad n = \frac{m (1 - m)}{V}

    n is the number of independent comparisons without ties that would know the rate as well: more than there are where
    some tie, fewer where those of a cluster are alike. Three things are not Wilson's (derived; the tests compute the
    coverage exactly):

    - V has :data:`PRIOR` comparisons without a tie in it, for few that do not tie tell little of how many do not;
    - where clusters have several comparisons, V goes towards what it would be if those of each were all the same, the
      more the fewer clusters have both wins and losses to tell how alike they are: 4 m (1 - m) of them, beside
      :data:`ALIKE`. Where all comparisons agree on a win or a loss, n is the number of clusters;
    - where n (1 - m), the losses, are :data:`FEW`, Wilson's upper end lies too low, and it is moved out to the exact
      limit of a Poisson law at 1 - ``confidence``, as [2] has it; the lower end likewise, where wins are few.

    From 48 prompts on it covers the truth in 94 to 97 of 100 cases with one response a prompt, and in 94 or more with
    several; with few topic families that are little alike within, in up to 99.

    Args:
        estimate: The rate.
        confidence: Coverage, in (0, 1).

    Returns:
        The lower and the upper end, in [0, 1]; nan where there is a single cluster.
    """
    if estimate.clusters < 2:
        unknown = torch.full_like(estimate.mean, math.nan)
        return unknown, unknown
    rate, terms, alike = estimate.mean, estimate.terms, estimate.alike
    largest = rate * (1 - rate)
    variance = (estimate.variance * terms + PRIOR * largest / terms) / (terms + PRIOR)
    if alike < terms:
        unsure = ALIKE / (ALIKE + 4 * largest * alike) * (1 - alike / terms)
        variance = variance + unsure * (largest / alike - variance).clamp(min=0)
    known = largest > 0
    n = torch.where(known, largest / torch.where(known, variance, 1.0), alike).clamp(min=alike)
    t = student_quantile(confidence, estimate.clusters - 1)
    middle = (n * rate + t**2 / 2) / (n + t**2)
    half = t * (n * largest + t**2 / 4).sqrt() / (n + t**2)
    low = torch.minimum(middle - half, _few(n * rate, confidence) / n)
    high = torch.maximum(middle + half, 1 - _few(n * (1 - rate), confidence) / n)
    return low.clamp(min=0), high.clamp(max=1)


def student_quantile(confidence: float, freedom: int) -> float:
    """The number that Student's t exceeds in absolute value with probability 1 - confidence.

    Args:
        confidence: In (0, 1).
        freedom: Degrees of freedom, >= 1.
    """
    low, high = 0.0, 1.0
    while _student(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < confidence else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """P(|T| < t), by the finite series in the cosine of arctan(t / sqrt(freedom))."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    steps = torch.arange(1, max(freedom // 2, 1), dtype=torch.float64)
    ratios = (2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)) * math.cos(angle) ** 2
    series = math.sin(angle) * (1 + float(ratios.cumprod(0).sum()))
    if not odd:
        return series
    return 2 / math.pi * (angle + (series * math.cos(angle) if freedom > 1 else 0.0))


def _few(events: Float[Tensor, "*means"], confidence: float) -> Float[Tensor, "*means"]:
    """The mean of a Poisson law at which so many events or more have probability 1 - confidence; inf beyond a few."""
    # An event more or less is one of rounding where some tie.
    few = (events > 0) & (events <= FEW + 1e-4)
    shape = events[few]
    low, high = torch.zeros_like(shape), torch.full_like(shape, FEW)
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle) < 1 - confidence
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.full_like(events, torch.inf).masked_scatter(few, low)
