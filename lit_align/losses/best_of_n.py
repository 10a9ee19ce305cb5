r"""The law of the best of n draws is known relative to the law that they were drawn from.

[1] P. G. Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, arXiv:2407.14622.

With :math:`F(y) = P[r(y') \le r(y)]` and :math:`F^-(y) = P[r(y') < r(y)]` for :math:`y' \sim \pi`, the best of n >= 1
independent draws (ties broken at random) has the law

.. math::
    \pi^{(n)}(y) = \pi(y) \sum_{i=1}^n F(y)^{n-i} F^-(y)^{i-1},

which is :math:`F^n - F^{-n}` where no other response has the reward of y. ``at_most`` is F in [0, 1], and ``below`` is
F^- in [0, F].
"""

import torch
from jaxtyping import Float, Real
from torch import Tensor


def cumulative(
    weights: Float[Tensor, "*#batch Y"], rewards: Real[Tensor, "*#batch Y"]
) -> tuple[Float[Tensor, "*#batch Y"], Float[Tensor, "*#batch Y"]]:
    """Return how much of a law lies at or below, and strictly below, the reward of each response: F and F^-.

    ``weights`` are probabilities, and rows of them sum to one. Rewards are of any finite unit: only their order
    matters, and equal rewards are ties. The results are in the dtype of the weights.
    """
    shape = torch.broadcast_shapes(weights.shape, rewards.shape)
    ordered, order = rewards.expand(shape).contiguous().sort(-1)
    mass = weights.expand(shape).gather(-1, order).cumsum(-1)
    mass = torch.nn.functional.pad(mass, (1, 0))
    values = rewards.expand(shape).contiguous()
    at_most = mass.gather(-1, torch.searchsorted(ordered, values, right=True))
    return at_most, mass.gather(-1, torch.searchsorted(ordered, values))


def best_of_n_ratio(
    at_most: Float[Tensor, "*shape"], below: Float[Tensor, "*shape"], n: int
) -> Float[Tensor, "*shape"]:
    r"""Return the law of the best of n draws divided by the law of one draw: a density ratio in [0, n].

    .. math::
        \frac{\pi^{(n)}}{\pi} = \sum_{i=1}^n F^{n-i} (F^-)^{i-1} = F^{n-1}\, \frac{1 - q^n}{1 - q}, \quad q = F^-/F

    Source: eq. (4) of [1], summed without a loop over n. It is finite for responses of probability zero too.
    """
    return at_most.pow(n - 1) * geometric_sum(at_most, below, n)


def log_best_of_n_ratio(
    at_most: Float[Tensor, "*shape"], below: Float[Tensor, "*shape"], n: int
) -> Float[Tensor, "*shape"]:
    """Return the log of :func:`best_of_n_ratio`, in nats, where it would underflow; -inf only for F = 0, n > 1."""
    # xlogy takes 0 log 0 for 0: the best of one draw is the draw.
    return torch.xlogy(n - 1, at_most) + geometric_sum(at_most, below, n).log()


def geometric_sum(at_most: Float[Tensor, "*shape"], below: Float[Tensor, "*shape"], n: int) -> Float[Tensor, "*shape"]:
    """Return the sum 1 + q + … + q^{n-1} in [1, n] of the powers of q = below / at_most; n where both are 0."""
    # expm1 is exact where q is within rounding of 1. 0 / 0 is nan, and counts as q = 1.
    decay = (at_most / below).log()
    total = torch.expm1(-n * decay) / torch.expm1(-decay)
    return torch.where(decay > 0, total, n)
