r"""Log-probabilities of tokens from hidden states, a few at a time: all logits are never there at once.

With logits :math:`z = f(W h + b)` and :math:`p = \mathrm{softmax}(z)`,

.. math::
    \log p_y = z_y - \log \sum_v e^{z_v}, \qquad
    \frac{\partial \log p_y}{\partial (W h + b)_v} = f'_v \, (1[v = y] - p_v)

(derived). Where the head is frozen the second is multiplied by W at once, so that one vector a token is all that is
kept; where it trains, the logits are computed again in the backward pass, from the log-sum-exp that was kept.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_align.models.readout import Readout

_LOGITS_AT_ONCE = 2**24


def head_token_logps(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    targets: Int[Tensor, " tokens"],
    readout: Readout,
) -> Float[Tensor, " tokens"]:
    """Log-probability of one target a token, float32, nats.

    Args:
        hidden: What the head would read.
        weight: Of the head; its gradient is computed only if it trains.
        bias: Of the head.
        targets: Token ids.
        readout: What the model does to the head's output.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # as the head itself would
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    token_logps: Tensor = _TokenLogps.apply(hidden, weight, bias, targets, readout)
    return token_logps


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, readout: Readout
    ) -> Tensor:
        inward, *head = ctx.needs_input_grad[:3]
        trained = any(head)
        # d log p / d hidden, where nothing else will be asked for.
        slopes = torch.empty_like(hidden) if inward and not trained else None
        picked, normalisers = [], []
        for at in _chunks(len(hidden), len(weight)):
            logits = readout(F.linear(hidden[at], weight, bias).float())
            normaliser = logits.logsumexp(-1)
            picked.append(logits.gather(-1, targets[at, None]).squeeze(-1) - normaliser)
            normalisers.append(normaliser)
            if slopes is not None:
                one = torch.ones_like(normaliser)
                slopes[at] = _pulled(logits, normaliser, targets[at], one, readout).to(weight.dtype) @ weight
        normaliser = torch.cat(normalisers)
        ctx.readout = readout
        ctx.save_for_backward(*((slopes,) if slopes is not None else (hidden, weight, bias, targets, normaliser)))
        return torch.cat(picked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if len(ctx.saved_tensors) == 1:
            (slopes,) = ctx.saved_tensors
            return (slopes * gradient[:, None]).to(slopes.dtype), None, None, None, None
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        inward, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if inward else None
        # Sums over chunks are in float32 whatever the weights are.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        for at in _chunks(len(hidden), len(weight)):
            logits = ctx.readout(F.linear(hidden[at], weight, bias).float())
            pulled = _pulled(logits, normaliser[at], targets[at], gradient[at], ctx.readout)
            narrow = pulled.to(weight.dtype)
            if of_hidden is not None:
                of_hidden[at] = narrow @ weight
            if of_weight is not None and of_weight.dtype == narrow.dtype:
                of_weight.addmm_(narrow.T, hidden[at])
            elif of_weight is not None:
                of_weight += narrow.T @ hidden[at]
            if of_bias is not None:
                of_bias += pulled.sum(0)
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype)
        return of_hidden, of_weight, None if of_bias is None else of_bias.to(weight.dtype), None, None


def _pulled(logits: Tensor, normaliser: Tensor, targets: Tensor, gradient: Tensor, readout: Readout) -> Tensor:
    """Gradient with respect to the head's output; overwrites the logits."""
    slope = readout.slope(logits)
    pulled = logits.sub_(normaliser[:, None]).exp_().mul_(-gradient[:, None])
    pulled.scatter_add_(-1, targets[:, None], gradient[:, None])
    return pulled if isinstance(slope, float) and slope == 1 else pulled.mul_(slope)


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, _LOGITS_AT_ONCE // vocabulary)
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
