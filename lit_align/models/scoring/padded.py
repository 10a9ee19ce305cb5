"""Each response is read in a sequence of its own behind its prompt, padded on the right: any causal model takes that.

What stands on the right of a token changes nothing that a causal model says of it, so neither a mask nor position ids
are given, and the numbers are those of each sequence alone, whatever a layer does: attention, a window, a state.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.models.generation.read_prompts import tokens_first
from lit_align.models.scoring.target_logps import target_token_logps
from lit_align.types import Responses


def padded_token_logps(model: Any, responses: Responses) -> Float[Tensor, "batch group length"]:
    """Return log-probs as :func:`target_token_logps` does; each response is read in a row of its own."""
    prompts, device = responses.prompts, responses.ids.device
    prompt_ids, in_prompt = tokens_first(prompts.ids, prompts.mask)
    asked = in_prompt.sum(1)
    # The last token predicts nothing, but frequencies may depend on how long the sequence is.
    width = int((asked[:, None] + responses.lengths).max())
    step = torch.arange(responses.ids.shape[-1], device=device)
    rows = torch.arange(len(responses) * responses.group_size, device=device).view(len(responses), -1)
    begin = (rows * width + asked[:, None])[..., None]  # each response begins here in the flattened rows
    ids = torch.zeros(rows.numel() * width, dtype=torch.long, device=device)
    column = torch.arange(prompt_ids.shape[1], device=device)
    asking = in_prompt[:, None].expand(-1, responses.group_size, -1)
    ids[(rows[..., None] * width + column)[asking]] = prompt_ids[:, None].expand_as(asking)[asking]
    ids[(begin + step)[responses.mask]] = responses.ids[responses.mask]
    inputs = {"input_ids": ids.view(-1, width), "use_cache": False}
    return target_token_logps(model, inputs, (begin + step - 1)[responses.mask], responses)
