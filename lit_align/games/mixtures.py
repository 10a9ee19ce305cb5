"""Geometric mixtures of laws are the form of every exact step, computed in logarithms so that nothing overflows."""

import torch
from jaxtyping import Float
from torch import Tensor


def geometric_mixture(
    *factors: tuple[float, Float[Tensor, "*#batch Y"]], tilt: Float[Tensor, "*#batch Y"] | None = None
) -> Float[Tensor, "*#batch Y"]:
    r"""Return a product of powers of laws, tilted and normalised.

    .. math::
        \pi(y) \propto \exp(tilt(y)) \prod_i p_i(y)^{c_i}

    ``factors`` are pairs (c_i, p_i) of a power >= 0 and a law; a power of 0 leaves its law out, zeros included.
    ``tilt`` (nats, below +inf) is added to the log-probabilities. The result is 0 where a law of positive power is.

    Raises:
        ValueError: No response has positive probability under all of the laws.
    """
    logits = torch.zeros((), dtype=torch.float64) if tilt is None else tilt
    for power, law in factors:
        if power:
            logits = logits + power * law.log()
    empty = torch.isneginf(logits.amax(-1))
    if empty.any():
        row = torch.nonzero(empty)[0].tolist()
        raise ValueError(f"row {row} has no response of positive probability under every law: their supports must meet")
    return logits.softmax(-1)
