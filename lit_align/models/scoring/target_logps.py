"""A forward pass over any layout of prompts and responses gives the log-probability of each response token."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lit_align.models.scoring.chunked_head import head_token_logps
from lit_align.models.scoring.logit_transform import LogitTransform, in_place_of, logit_transform_of, plain_head
from lit_align.types import Responses


def target_token_logps(
    model: Any, inputs: dict[str, Any], predictors: Int[Tensor, " tokens"], responses: Responses
) -> Float[Tensor, "batch group length"]:
    """Return log pi(y_t | x, y_<t) of every response token under a Hugging Face causal LM.

    Args:
        model: It takes the inputs, and ``logits_to_keep`` where its head is not plain.
        inputs: Arguments of one forward pass.
        predictors: Place in the flattened inputs that predicts each response token, in the order of the mask.
        responses: They are on the model's device.

    Returns:
        float32, nats, 0 on padding; the log-softmax is taken in float32 whatever the model's dtype.
    """
    targets = responses.ids[responses.mask]
    transform = logit_transform_of(model)
    if transform is None:
        found = _from_logits(model, inputs, predictors, targets)
    else:
        found = _from_head(model, inputs, predictors, targets, transform)
    return torch.zeros(responses.ids.shape, device=found.device).masked_scatter(responses.mask, found)


def _from_head(
    model: Any,
    inputs: dict[str, Any],
    predictors: Int[Tensor, " tokens"],
    targets: Int[Tensor, " tokens"],
    transform: LogitTransform,
) -> Float[Tensor, " tokens"]:
    head = plain_head(model)
    assert head is not None
    found: list[Tensor] = []

    def instead(hidden: Tensor) -> Tensor:
        states = hidden.flatten(0, -2).index_select(0, predictors)
        found.append(head_token_logps(states, head.weight, head.bias, targets, transform))
        return found[0][None, :, None]

    with in_place_of(head, instead):
        output = model(**inputs).logits
    # Log-probs leave by the side, because the model may scale and cap what it takes for logits. Its output stays in
    # the graph, since that is where sharded models wait for the backward pass.
    return found[0] + 0 * output.flatten() if output.requires_grad else found[0]


def _from_logits(
    model: Any, inputs: dict[str, Any], predictors: Int[Tensor, " tokens"], targets: Int[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """Compute every logit that is needed at once, which works with heads of any kind."""
    width = inputs["input_ids"].shape[1]
    columns, at = (predictors % width).unique(return_inverse=True)
    logits = model(**inputs, logits_to_keep=columns).logits
    return -F.cross_entropy(logits[predictors // width, at].float(), targets, reduction="none")
