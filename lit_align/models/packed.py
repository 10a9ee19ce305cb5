"""Log-probabilities of whole groups: a prompt and its K responses in one sequence, so the prompt is read once.

A group is laid out as ``prompt | y_1 | y_2 | ... | y_K``. A block-causal mask lets each response see the prompt and
itself only, and its position ids go on from the prompt's end, so the numbers are those of K separate sequences.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lit_align.types import Responses


@dataclass(frozen=True)
class PackedGroups:
    """Inputs of one forward pass over packed groups.

    Attributes:
        ids: ``prompt`` left-padded, then K slots of ``length - 1`` tokens: a last token predicts nothing.
        positions: Position ids, counted from each prompt's first token.
        mask: Additive attention mask, 0 where a key may be seen, the dtype's lowest number elsewhere.
        predictors: Columns whose logits predict response tokens: the last prompt token, then all of the slots.
    """

    ids: Int[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]
    mask: Float[Tensor, "batch 1 seq seq"]
    predictors: Int[Tensor, " predictors"]


def pack(responses: Responses, dtype: torch.dtype) -> PackedGroups:
    """Lay out each prompt with all its responses.

    Args:
        responses: Trimmed responses.
        dtype: Floating dtype of the model, for the additive mask.
    """
    prompts = responses.prompts
    batch, prompt = prompts.ids.shape
    group, slot = responses.group_size, responses.ids.shape[-1] - 1
    device = prompts.ids.device
    ids = torch.cat([prompts.ids, responses.ids[..., :slot].reshape(batch, -1)], dim=1)
    real = torch.cat([prompts.mask, responses.mask[..., :slot].reshape(batch, -1)], dim=1)
    in_prompt = prompts.mask.cumsum(1) - 1
    after = prompts.mask.sum(1, keepdim=True) + torch.arange(slot, device=device).repeat(group)
    positions = torch.cat([in_prompt.clamp(min=0), after], dim=1)
    # 0 marks the prompt, k the k-th response: a key is seen from its own block, and the prompt from everywhere.
    block = torch.zeros(prompt + group * slot, dtype=torch.long, device=device)
    block[prompt:] = torch.arange(1, group + 1, device=device).repeat_interleave(slot)
    order = torch.arange(len(block), device=device)
    causal = (order[None, :] <= order[:, None]) & ((block[None, :] == 0) | (block[None, :] == block[:, None]))
    # Padding sees itself, so that no row of the softmax is empty.
    seen = (causal & real[:, None, :]) | torch.eye(len(block), dtype=torch.bool, device=device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, torch.finfo(dtype).min)
    predictors = torch.arange(prompt - 1, len(block), device=device)
    return PackedGroups(ids, positions, mask.unsqueeze(1), predictors)


def packed_token_logps(
    model: nn.Module, responses: Responses, dtype: torch.dtype
) -> Float[Tensor, "batch group length"]:
    """Log pi(y_t | x, y_<t) of every response token under a Hugging Face causal LM.

    Args:
        model: Takes input_ids, attention_mask, position_ids and logits_to_keep.
        responses: Trimmed responses, on the model's device.
        dtype: The dtype the model computes in.

    Returns:
        float32, nats, 0 on padding; the log-softmax is taken in float32 whatever the model's dtype.
    """
    packed = pack(responses, dtype)
    logits = model(
        input_ids=packed.ids,
        attention_mask=packed.mask,
        position_ids=packed.positions,
        logits_to_keep=packed.predictors,
        use_cache=False,
    ).logits
    batch, group, length = responses.ids.shape
    first: Tensor = logits[:, 0].float().log_softmax(-1).gather(-1, responses.ids[:, :, 0]).unsqueeze(-1)
    if length == 1:
        return first
    later = logits[:, 1:].reshape(batch * group * (length - 1), -1).float()
    targets = responses.ids[..., 1:].reshape(-1)
    rest = -F.cross_entropy(later, targets, reduction="none").view(batch, group, length - 1)
    token_logps = torch.cat([first, rest], dim=-1)
    return torch.where(responses.mask, token_logps, torch.zeros_like(token_logps))
