"""Losses of groups take means over the responses to one prompt, sampled or enumerated.

All of them take, for each response of each prompt:

- ``policy_logps``, ``anchor_logps``, ``reference_logps``: log pi(y|x) under pi_theta, pi_t and pi_ref, a sum over
  tokens, nats; those of the policy carry the gradient. ``rewards``: any finite unit.
- ``win_rates``: P(y beats its opponent) in [0, 1]; the opponent is pi_t, unless the loss says otherwise.
- ``weights``: mu, the probability of each response, rows sum to one, where all are enumerated; None means K samples of
  weight 1/K.

They return one loss for each prompt, and raise a ValueError where a hyper-parameter is out of its range. Only the
GRADIENT of a *surrogate* is meaningful, and not its value.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Group = Float[Tensor, "batch group"]


def group_mean(values: Group, weights: Group | None = None) -> Float[Tensor, " batch"]:
    """Return the mean of a quantity over the responses to each prompt, in the unit of the values."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1)


def group_shares(counts: Bool[Tensor, "batch group"], weights: Group | None, *, dtype: torch.dtype) -> Group:
    """Return the weight of each response in a mean over those of its group that count; rows sum to one.

    A loss of K draws that is right for every K stays right without the draws that a judge has not answered for: what is
    left is a group of fewer draws, as long as the answers that are missing do not depend on the responses. Where none
    counts all do, so that the mean of a prompt that has no weight in the loss is finite. ``dtype`` is the result's.
    """
    share = torch.ones(counts.shape, dtype=dtype, device=counts.device) if weights is None else weights.to(dtype)
    counted = torch.where(counts, share, torch.zeros_like(share))
    share = torch.where(counted.sum(-1, keepdim=True) > 0, counted, share)
    return share / share.sum(-1, keepdim=True)
