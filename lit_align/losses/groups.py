"""The mean over the responses to one prompt, sampled or enumerated, and over those of them that count."""

import torch
from jaxtyping import Bool, Float
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


def group_shares(counts: Bool[Tensor, "batch group"], weights: Group | None, *, dtype: torch.dtype) -> Group:
    """Weight of each response in a mean over those of its group that count.

    A loss of K draws that is right for every K stays right when the draws that a judge has not answered for are left
    out: what is left is a group of fewer draws, as long as the answers that are missing do not depend on the responses.

    Args:
        counts: Which responses count.
        weights: Probability of each response; None means samples, which all weigh the same.
        dtype: Of the result: that of the numbers that it weighs.

    Returns:
        Rows sum to one, with 0 where a response does not count. Where none counts all do, so that the mean of a prompt
        that has no weight in the loss is finite.
    """
    share = torch.ones(counts.shape, dtype=dtype, device=counts.device) if weights is None else weights.to(dtype)
    counted = torch.where(counts, share, torch.zeros_like(share))
    share = torch.where(counted.sum(-1, keepdim=True) > 0, counted, share)
    return share / share.sum(-1, keepdim=True)
