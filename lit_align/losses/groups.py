"""The mean over the responses to one prompt, sampled or enumerated."""

from jaxtyping import Float
from torch import Tensor

Group = Float[Tensor, "batch group"]


def group_mean(values: Group, weights: Group | None = None) -> Float[Tensor, " batch"]:
    """Mean of a quantity over the responses to each prompt.

    Args:
        values: One number a response.
        weights: Probability of each response, rows sum to one; None means samples, 1/K each.

    Returns:
        Mean of each prompt, in the unit of the values.
    """
    return values.mean(-1) if weights is None else (values * weights).sum(-1)
