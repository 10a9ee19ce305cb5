"""Attention masks of packed sequences, for every kind of layer a model has."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FULL, SLIDING = "full_attention", "sliding_attention"

Mask = Float[Tensor, "rows 1 seq seq"]


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


def _additive(seen: Bool[Tensor, "rows seq seq"], dtype: torch.dtype) -> Mask:
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min).unsqueeze(1)
