r"""Means have intervals although their terms come in clusters, such as the responses to a prompt.

[1] E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
[2] L. D. Brown, T. T. Cai, A. DasGupta, "Interval Estimation for a Binomial Proportion", Statistical Science 16, 2001.
[3] L. Kish, "Survey Sampling", Wiley 1965 (the design effect).

The C clusters are independent; the terms of one may be alike. With totals :math:`S_c` of :math:`n_c` terms, N in all,
the variance of the mean m is estimated as

.. math::
    V = \frac{C}{C - 1} \, \frac{\sum_c (S_c - n_c m)^2}{N^2},

and Student's quantile has C - 1 degrees of freedom. With one term a cluster this is the usual t interval.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

FEW = 3
"""With at most so many losses (or wins) an end of a win rate's interval is that of a Poisson law, if that is wider."""
PRIOR = 1.5
"""So many comparisons without a tie are added to the estimate of a win rate's variance."""
ALIKE = 0.5
"""So many clusters with equal comparisons are added to those that show how alike the comparisons of a cluster are."""


@dataclass(frozen=True)
class ClusteredMean:
    """Holds means over terms in clusters, with the variance V of each.

    Attributes:
        mean: The mean over terms.
        variance: Estimate of its variance.
        terms: Number of terms.
        alike: Effective number of terms if those of a cluster are all equal: ``terms**2`` / sum of squared sizes.
        clusters: Number of clusters.
    """

    mean: Float[Tensor, "*means"]
    variance: Float[Tensor, "*means"]
    terms: int
    alike: int | float
    clusters: int

    @classmethod
    def of(cls, values: Float[Tensor, " terms"], clusters: Int[Tensor, " terms"]) -> "ClusteredMean":
        """Return the mean of values, at least one, with the id of each one's cluster."""
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
    """Return Student's interval, the lower and the upper end, of a mean of any numbers.

    The coverage ``confidence`` lies in (0, 1). Both ends are nan for a single cluster, which says nothing about others.
    """
    if estimate.clusters < 2:
        unknown = torch.full_like(estimate.mean, math.nan)
        return unknown, unknown
    half = student_quantile(confidence, estimate.clusters - 1) * estimate.variance.sqrt()
    return estimate.mean - half, estimate.mean + half


def rate_interval(
    estimate: ClusteredMean, confidence: float = 0.95
) -> tuple[Float[Tensor, "*means"], Float[Tensor, "*means"]]:
    r"""Return Wilson's interval [1] in [0, 1] of a win rate m, with ties and clusters as a design effect [3].

    .. math::
        \frac{|m - p|}{\sqrt{p (1 - p) / n}} \le t, \quad n = \frac{m (1 - m)}{V}

    n is the number of independent comparisons without ties that would be as precise: ties raise it, likeness within
    clusters lowers it. Three corrections are derived here and stated beside their lines; the tests compute the coverage
    exactly. For 95 % and 48 prompts or more it is 94 to 97 % with one response a prompt, and 94 % or more with several;
    it reaches 99 % with few topic families whose prompts are little alike. ``estimate``, ``confidence`` and nan are as
    for :func:`mean_interval`.
    """
    if estimate.clusters < 2:
        unknown = torch.full_like(estimate.mean, math.nan)
        return unknown, unknown
    rate, terms, alike = estimate.mean, estimate.terms, estimate.alike
    largest = rate * (1 - rate)
    # Few comparisons without a tie say little about how many tie, so PRIOR of them are added.
    variance = (estimate.variance * terms + PRIOR * largest / terms) / (terms + PRIOR)
    if alike < terms:
        # V moves towards its value for clusters whose comparisons are all equal. It moves the more, the fewer clusters
        # have both wins and losses and so show how alike they are: 4 m (1 - m) of them, besides ALIKE.
        unsure = ALIKE / (ALIKE + 4 * largest * alike) * (1 - alike / terms)
        variance = variance + unsure * (largest / alike - variance).clamp(min=0)
    known = largest > 0  # n is the effective number of clusters where all comparisons are wins, or all are losses
    n = torch.where(known, largest / torch.where(known, variance, 1.0), alike).clamp(min=alike)
    t = student_quantile(confidence, estimate.clusters - 1)
    middle = (n * rate + t**2 / 2) / (n + t**2)
    half = t * (n * largest + t**2 / 4).sqrt() / (n + t**2)
    # With FEW losses Wilson's upper end is too low: it moves out to the exact limit of a Poisson law [2]. The lower end
    # does likewise with few wins.
    low = torch.minimum(middle - half, _few(n * rate, confidence) / n)
    high = torch.maximum(middle + half, 1 - _few(n * (1 - rate), confidence) / n)
    return low.clamp(min=0), high.clamp(max=1)


def student_quantile(confidence: float, freedom: int) -> float:
    """Return q with P(|T| < q) = ``confidence``, in (0, 1), for Student's T with ``freedom`` >= 1 degrees."""
    low, high = 0.0, 1.0
    while _student(high, freedom) < confidence:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student(middle, freedom) < confidence else (low, middle)
    return high


def _student(t: float, freedom: int) -> float:
    """Return P(|T| < t), by the finite series in the cosine of arctan(t / sqrt(freedom))."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    steps = torch.arange(1, max(freedom // 2, 1), dtype=torch.float64)
    ratios = (2 * steps / (2 * steps + 1) if odd else (2 * steps - 1) / (2 * steps)) * math.cos(angle) ** 2
    series = math.sin(angle) * (1 + float(ratios.cumprod(0).sum()))
    if not odd:
        return series
    return 2 / math.pi * (angle + (series * math.cos(angle) if freedom > 1 else 0.0))


def _few(events: Float[Tensor, "*means"], confidence: float) -> Float[Tensor, "*means"]:
    """Return the mean of a Poisson law at which P(events or more) = 1 - confidence; inf beyond :data:`FEW` events."""
    # Ties make the number of events fractional, and rounding may lift it over FEW.
    few = (events > 0) & (events <= FEW + 1e-4)
    shape = events[few]
    low, high = torch.zeros_like(shape), torch.full_like(shape, FEW)
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.special.gammainc(shape, middle) < 1 - confidence
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.full_like(events, torch.inf).masked_scatter(few, low)
