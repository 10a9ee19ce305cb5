r"""Accelerated preference optimisation (APO) extrapolates its policies; their place after T iterations is known.

[1] J. He, H. Yuan, Q. Gu, "Accelerated Preference Optimization for Large Language Model Alignment", 2024,
    arXiv:2410.06293.

An iteration takes a proximal step from :math:`\pi_t` to :math:`\hat\pi_{t+1}`, which :func:`extrapolate` moves on.
With rewards :math:`r_i` at iteration i and :math:`\hat\pi_0 = \pi_0 = ref`,

.. math::
    \hat\pi_T \propto ref \cdot \exp\Big(\sum_{i<T} c_{T,i}\, r_i / \beta_i\Big),
        \quad c_{T,i} = \frac{1-\alpha^{T-i}}{1-\alpha}

(Theorem 4.1 of [1], here with a beta for each iteration). This :math:`\hat\pi_T` is not extrapolated yet. The momentum
``alpha`` lies in [0, 1) everywhere, and 0 is no momentum.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.games.checks import check_alpha, check_count, check_distribution, check_positive

Law = Float[Tensor, "*#batch Y"]


def extrapolate(new: Law, previous: Law, *, alpha: float) -> Law:
    r"""Return the law that momentum makes of two proximal steps, :math:`\pi \propto new\, (new / previous)^\alpha`.

    Source: eq. (3.6) of [1]. ``previous`` is the proximal step's result at the iteration before ``new``, not the
    extrapolated policy; it must be positive where ``new`` is. The result is 0 where ``new`` is 0.
    """
    check_alpha(alpha)
    new, previous = check_distribution("new", new), check_distribution("previous", previous)
    if alpha == 0:
        return new.expand(torch.broadcast_shapes(new.shape, previous.shape))
    appeared = (new > 0) & (previous == 0)
    if appeared.any():
        row = torch.nonzero(appeared)[0].tolist()
        raise ValueError(f"previous{row} is 0 where new is not: their ratio is infinite")
    momentum = torch.where(new > 0, new.log() - previous.log(), 0.0)
    return (new.log() + alpha * momentum).softmax(-1)


def apo_coefficients(iterations: int, *, alpha: float) -> Float[Tensor, " iterations"]:
    r"""Return the weight of each iteration's rewards in :math:`\hat\pi_T`, :math:`c_{T,i}` for T = ``iterations`` >= 0.

    The weights lie in [1, 1/(1-alpha)), and the first iteration's is the largest.
    """
    check_count("iterations", iterations, least=0)
    check_alpha(alpha)
    remaining = torch.arange(iterations, 0, -1, dtype=torch.float64)
    return (1 - alpha**remaining) / (1 - alpha)


def apo_tilt(iterations: int, *, alpha: float) -> float:
    r"""Return the total weight >= T of a constant reward after T = ``iterations`` iterations, in units of r / beta.

    .. math::
        W_T = \sum_i c_{T,i} = \frac{T}{1-\alpha} - \frac{\alpha (1-\alpha^T)}{(1-\alpha)^2}

    The extrapolated :math:`\pi_T` has weight :math:`W_{T+1} - 1`.
    """
    return float(apo_coefficients(iterations, alpha=alpha).sum())


def tilt_bound(best: float, tilt: float) -> float:
    r"""Bound the sub-optimality of :math:`\pi \propto ref \cdot \exp(tilt \cdot r)` for all rewards, in their unit.

    .. math::
        \max r - E_\pi[r] \le W_0\big(\tfrac{1-p}{e\, p}\big) / tilt

    ``best`` is p in (0, 1], the reference's probability of the best response; ``tilt`` > 0 is W_T / beta, in 1/reward.
    The bound is derived, and holds where the proof of Theorem 4.4 of [1] fails.
    """
    check_positive("tilt", tilt)
    if not 0 < best <= 1:
        raise ValueError(f"best must lie in (0, 1], got {best}")
    # This is the maximum of Z log((1-p)/Z) / (Z+p) over Z. The proof of Theorem 4.4 of [1] has log((1-p)/p) in its
    # place, which fails for p above 1/(1+e^{1/e}) = 0.409.
    return _lambert((1 - best) / (math.e * best)) / tilt


def _lambert(x: float) -> float:
    """Return W with W e^W = x, for x >= 0."""
    if x == 0:
        return 0.0
    # Newton's method solves W + log W = log x, concave in W: from below it climbs to the root without overshooting.
    w = x / (1 + x)
    for _ in range(50):
        w -= w * (w + math.log(w) - math.log(x)) / (1 + w)
    return w
