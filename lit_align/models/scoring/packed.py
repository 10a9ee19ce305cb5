"""A prompt and all its responses are read in one sequence, so that the prompt is read once for the whole group.

A group is laid out as ``prompt | y_1 | y_2 | ... | y_K`` without padding in between. A block-causal mask lets each
response see the prompt and itself only, and its position ids go on from the prompt's end, so the numbers are those of K
separate sequences. Rows are as long as the longest group; short groups share one where they fit, and a group whose
responses are long is better read in several sequences. Models take the mask if each of their layers attends to all that
came before, or to a window of it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lit_align.models.scoring.target_logps import target_token_logps
from lit_align.types import Responses

FULL, SLIDING = "full_attention", "sliding_attention"

Mask = Float[Tensor, "rows 1 seq seq"]


def packed_token_logps(model: Any, responses: Responses, dtype: torch.dtype) -> Float[Tensor, "batch group length"]:
    """Log pi(y_t | x, y_<t) of every response token under a Hugging Face causal LM.

    Args:
        model: Takes input_ids, attention_mask, position_ids and logits_to_keep.
        responses: On the model's device.
        dtype: The dtype the model computes in.

    Returns:
        float32, nats, 0 on padding; the log-softmax is taken in float32 whatever the model's dtype.
    """
    packed = pack(responses)
    inputs = {
        "input_ids": packed.ids,
        "attention_mask": attention_masks(model.config, packed.seen, packed.positions, dtype),
        "position_ids": packed.positions,
        "use_cache": False,
    }
    return target_token_logps(model, inputs, packed.predictors, responses)


@dataclass(frozen=True)
class PackedGroups:
    """Inputs of one forward pass over packed groups.

    Attributes:
        ids: Rows of groups, each ``prompt | y_1 | ... | y_K``; the last token of a response predicts nothing and is
            left out.
        positions: Position ids, counted from each prompt's first token.
        seen: Which keys each query may see.
        predictors: Where in the flattened rows each response token is predicted, in the order of the responses' mask.
    """

    ids: Int[Tensor, "rows seq"]
    positions: Int[Tensor, "rows seq"]
    seen: Bool[Tensor, "rows seq seq"]
    predictors: Int[Tensor, " tokens"]


def pack(responses: Responses) -> PackedGroups:
    """Lay out each prompt with all its responses; padding, on either side, is left out."""
    prompts, device = responses.prompts, responses.ids.device
    asked, slots = prompts.mask.sum(1), (responses.lengths - 1).clamp(min=0)
    sizes = asked + slots.sum(1)
    width = int(sizes.max())
    starts = torch.tensor(_starts(sizes.tolist(), width), device=device)
    rows = int((starts // width).max()) + 1
    # Where each token of a prompt goes in the flattened rows, and each token of a response that predicts another.
    in_prompt = prompts.mask.cumsum(1) - 1
    step = torch.arange(responses.ids.shape[-1], device=device)
    begins = (starts + asked)[:, None] + slots.cumsum(1) - slots
    predicting = step < slots[..., None]
    prompt_at = (starts[:, None] + in_prompt)[prompts.mask]
    response_at = (begins[..., None] + step)[predicting]
    # A block is a prompt or a response; its group's prompt is the one other block it sees. Padding is block 0.
    group = torch.arange(len(responses), device=device)[:, None] * (responses.group_size + 1) + 1
    block = group + torch.arange(1, responses.group_size + 1, device=device)

    def laid_out(of_prompts: Tensor, of_responses: Tensor) -> Tensor:
        row = torch.zeros(rows * width, dtype=torch.long, device=device)
        row[prompt_at] = of_prompts.expand_as(prompts.ids)[prompts.mask]
        row[response_at] = of_responses.expand_as(responses.ids)[predicting]
        return row.view(rows, width)

    own = laid_out(group, block[..., None])
    predictors = torch.where(step == 0, (starts + asked)[:, None, None] - 1, begins[..., None] + step - 1)
    return PackedGroups(
        ids=laid_out(prompts.ids, responses.ids),
        positions=laid_out(in_prompt, asked[:, None, None] + step),
        seen=_seen(own, laid_out(group, group[..., None])),
        predictors=predictors[responses.mask],
    )


def attention_masks(
    config: Any, seen: Bool[Tensor, "rows seq seq"], positions: Int[Tensor, "rows seq"], dtype: torch.dtype
) -> Mask | dict[str, Mask]:
    """Additive masks: 0 where a key may be seen, the dtype's lowest number elsewhere.

    A mask of four dimensions is taken by a model as it is, so that windows have to be in it; models with layers of
    both kinds take one for each.

    Args:
        config: Of the model.
        seen: Which keys each query may see, if no window is in the way.
        positions: Position ids, which the width of a window is counted in.
        dtype: Floating dtype of the model.

    Raises:
        ValueError: The model has layers of another kind, which would carry one response into the next.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or [SLIDING if window else FULL])
    if kinds - {FULL, SLIDING}:
        other = ", ".join(sorted(kinds - {FULL, SLIDING}))
        raise ValueError(f"policy.name: {text.model_type} has {other} layers; only those with {FULL} and {SLIDING} do")
    if window is None or SLIDING not in kinds:
        return _additive(seen, dtype)
    near = positions[:, None, :] > positions[:, :, None] - window
    sliding = _additive(seen & near, dtype)
    return {FULL: _additive(seen, dtype), SLIDING: sliding} if FULL in kinds else sliding


def _seen(own: Int[Tensor, "rows seq"], prompt: Int[Tensor, "rows seq"]) -> Bool[Tensor, "rows seq seq"]:
    """Which keys each query sees: its own block and its prompt, up to itself."""
    order = torch.arange(own.shape[1], device=own.device)
    same = (own[:, None, :] == own[:, :, None]) | (own[:, None, :] == prompt[:, :, None])
    return same & (order[None, :] <= order[:, None])


def _starts(sizes: list[int], width: int) -> list[int]:
    """Where each group starts in the flattened rows: the largest first, each in the first row with room."""
    room: list[int] = []
    starts = [0] * len(sizes)
    for group in sorted(range(len(sizes)), key=lambda g: -sizes[g]):
        row = next((r for r, left in enumerate(room) if left >= sizes[group]), len(room))
        if row == len(room):
            room.append(width)
        starts[group] = row * width + width - room[row]
        room[row] -= sizes[group]
    return starts


def _additive(seen: Bool[Tensor, "rows seq seq"], dtype: torch.dtype) -> Mask:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
