"""What is logged of the rollouts an iteration has collected."""

import torch
from torch import Tensor

from lit_align.types import Rollouts


def collected_metrics(rollouts: Rollouts, *, is_policy: bool, anchor_is_policy: bool) -> dict[str, Tensor]:
    """Means over the responses, by name; what was drawn is compared with what scoring says of it.

    Args:
        rollouts: Of a whole iteration.
        is_policy: Whether the sampler draws from the policy itself.
        anchor_is_policy: Whether the anchor's log-probs are those of what the policy drew.
    """
    responses = rollouts.responses
    weights = torch.ones_like(rollouts.wins[..., 0]) if rollouts.weights is None else rollouts.weights
    columns = {"length": responses.lengths, "truncated": responses.truncated}
    values = {name: (column * weights).sum() / weights.sum() for name, column in columns.items()}
    if rollouts.rewards is not None:
        known = weights * ~rollouts.rewards.isnan()
        values["reward"] = (rollouts.rewards.nan_to_num() * known).sum() / known.sum()
    own, both = rollouts.slots("policy"), (rollouts.anchor_token_logps, rollouts.reference_token_logps)
    if anchor_is_policy and own and all(token_logps is not None for token_logps in both):
        gains = (rollouts.anchor_logps - rollouts.reference_logps)[:, own]
        values["kl"] = (gains * weights[:, own]).sum() / weights[:, own].sum()
    scored = rollouts.slots("anchor") + (rollouts.slots("policy") if anchor_is_policy else [])
    if rollouts.anchor_token_logps is not None and is_policy and responses.drawn and scored:
        # What the sampler drew from against what a scoring pass says: kernels and dtypes, or a bug.
        gap = (responses.sample_logps - rollouts.anchor_token_logps).abs()[:, scored]
        values["sampling_gap"] = gap[responses.mask[:, scored]].max()
    return values
