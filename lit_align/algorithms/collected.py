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
    if rollouts.rewards is not None:
        columns["reward"] = rollouts.rewards
    values = {name: (column * weights).sum() / weights.sum() for name, column in columns.items()}
    scored = rollouts.slots("anchor") + (rollouts.slots("policy") if anchor_is_policy else [])
    if rollouts.anchor_token_logps is not None and is_policy and responses.drawn and scored:
        # What the sampler drew from against what a scoring pass says: kernels and dtypes, or a bug.
        gap = (responses.sample_logps - rollouts.anchor_token_logps).abs()[:, scored]
        values["sampling_gap"] = gap[responses.mask[:, scored]].max()
    return values
