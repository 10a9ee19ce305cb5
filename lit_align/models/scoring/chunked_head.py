r"""The head turns hidden states into log-probs a few at a time: the logits are never in memory all at once.

With logits :math:`z = f(W h + b)` and :math:`p = \mathrm{softmax}(z)`,

.. math::
    \log p_y = z_y - \log \sum_v e^{z_v}, \qquad
    \frac{\partial \log p_y}{\partial (W h + b)_v} = f'_v \, (1[v = y] - p_v)

(derived). Where the head is frozen the second is multiplied by W at once, so that one vector a token is all that is
kept. Where it trains, the last logits wait for the backward pass, which begins with them and so has no higher peak;
all others are computed again, from the log-sum-exp that was kept.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_align.models.scoring.logit_transform import LogitTransform

LOGITS_AT_ONCE = 2**24  # so many numbers take 64 MiB


def head_token_logps(
    hidden: Float[Tensor, "tokens width"],
    weight: Float[Tensor, "vocab width"],
    bias: Float[Tensor, " vocab"] | None,
    targets: Int[Tensor, " tokens"],
    transform: LogitTransform,
    *,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> Float[Tensor, " tokens"]:
    """Return the log-prob of one target for each token, float32, nats.

    Args:
        hidden: Input of the head.
        weight: Weight of the head; its gradient is computed only if it trains.
        bias: Bias of the head.
        targets: Token ids.
        transform: What the model does to the head's output.
        logits_at_once: Most logits in memory at any time, unless one token has more.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # the head itself would do so
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, bias = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    token_logps: Tensor = _TokenLogps.apply(hidden, weight, bias, targets, transform, logits_at_once)
    return token_logps


class _Weighed(NamedTuple):
    """Holds what the logits of a chunk have become."""

    exponentials: Tensor  # exp(z - max z) takes the place of the logits
    total: Tensor  # it is their sum
    slope: Tensor | float  # it is the slope of the transform


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        logits_at_once: int,
    ) -> Tensor:
        inward, *head = ctx.needs_input_grad[:3]
        trained = any(head)
        # This is d log p / d hidden, which is enough where the head does not train.
        slopes = torch.empty_like(hidden) if inward and not trained else None
        chunks = _chunks(len(hidden), len(weight), logits_at_once)
        room = _room(hidden, weight, chunks)
        picked, normalisers = [], []
        for at in chunks:
            logits = transform(_head(hidden[at], weight, bias, room))
            picked.append(logits.gather(-1, targets[at, None]).squeeze(-1))
            slope = transform.slope(logits) if inward or trained else 1.0
            largest = logits.amax(-1)
            total = logits.sub_(largest[:, None]).exp_().sum(-1)
            normalisers.append(largest + total.log())
            weighed = _Weighed(logits, total, slope)
            if slopes is not None:
                slopes[at] = _pulled(weighed, targets[at], torch.ones_like(total)).to(weight.dtype) @ weight
        normaliser = torch.cat(normalisers)
        ctx.transform, ctx.chunks = transform, chunks
        ctx.waiting = (room, weighed) if trained else None
        ctx.save_for_backward(*((slopes,) if slopes is not None else (hidden, weight, bias, targets, normaliser)))
        return torch.cat(picked) - normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if len(ctx.saved_tensors) == 1:
            (slopes,) = ctx.saved_tensors
            return (slopes * gradient[:, None]).to(slopes.dtype), None, None, None, None, None
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        inward, to_weight, to_bias = ctx.needs_input_grad[:3]
        of_hidden = torch.empty_like(hidden) if inward else None
        # Sums over chunks are in float32 whatever the weights are.
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if to_bias else None
        room, weighed = (_room(hidden, weight, ctx.chunks), None) if ctx.waiting is None else ctx.waiting
        ctx.waiting = None  # what follows overwrites it
        for at in reversed(ctx.chunks):
            if weighed is None:
                logits = ctx.transform(_head(hidden[at], weight, bias, room))
                slope = ctx.transform.slope(logits)
                probabilities = logits.sub_(normaliser[at, None]).exp_()
                weighed = _Weighed(probabilities, torch.ones_like(normaliser[at]), slope)
            pulled, weighed = _pulled(weighed, targets[at], gradient[at]), None
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
        return of_hidden, of_weight, None if of_bias is None else of_bias.to(weight.dtype), None, None, None


def _pulled(weighed: _Weighed, targets: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient with respect to the head's output; it overwrites the exponentials."""
    pulled = weighed.exponentials.mul_((-gradient / weighed.total)[:, None])
    pulled.scatter_add_(-1, targets[:, None], gradient[:, None])
    constant = isinstance(weighed.slope, float) and weighed.slope == 1
    return pulled if constant else pulled.mul_(weighed.slope)


def _room(hidden: Tensor, weight: Tensor, chunks: list[slice]) -> Tensor:
    """Make room for the logits of one chunk after another, so that the system is asked for memory only once."""
    return torch.empty(chunks[0].stop, len(weight), device=hidden.device)


def _head(hidden: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor) -> Tensor:
    """Return the head's output in float32."""
    found = room[: len(hidden)]
    if weight.dtype != room.dtype:
        return found.copy_(F.linear(hidden, weight, bias))
    return torch.mm(hidden, weight.T, out=found) if bias is None else torch.addmm(bias, hidden, weight.T, out=found)


def _chunks(tokens: int, vocabulary: int, logits_at_once: int) -> list[slice]:
    """Return as few chunks as memory allows, of about equal size."""
    most = max(1, logits_at_once // vocabulary)
    size = max(1, math.ceil(tokens / math.ceil(tokens / most)))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
