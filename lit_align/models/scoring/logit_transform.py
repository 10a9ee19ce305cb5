"""A causal LM may scale or cap what its head says; which it does is measured here, and the head may be replaced.

Some models scale their logits (Cohere, Granite), some cap them (Gemma). The names in a config do not say so for sure:
a model is given numbers in place of its head's output once, and the logits show what it does to them.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

_MEASURED: WeakKeyDictionary[nn.Module, "LogitTransform | None"] = WeakKeyDictionary()


@dataclass(frozen=True)
class LogitTransform:
    r"""Turns the head's output x into logits: :math:`c \tanh(s x / c)`, which is :math:`s x` without a cap.

    Attributes:
        scale: s, > 0.
        cap: c, > 0; infinite where there is none.
    """

    scale: float = 1.0
    cap: float = math.inf

    def __call__(self, output: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
        """Return the logits."""
        scaled = output if self.scale == 1 else output * self.scale
        return scaled if self.cap == math.inf else (scaled / self.cap).tanh() * self.cap

    def slope(self, logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"] | float:
        """Return the derivative of the logits with respect to the head's output, in [0, scale]."""
        return self.scale if self.cap == math.inf else self.scale * (1 - (logits / self.cap) ** 2)


def logit_transform_of(model: nn.Module) -> LogitTransform | None:
    """Return what the model does after its head; None where that, or the head, is of another kind."""
    if model not in _MEASURED:
        _MEASURED[model] = _measured(model)
    return _MEASURED[model]


def plain_head(model: Any) -> nn.Linear | None:
    """Return the head where it is one matrix of floating-point numbers, without adapter and not in 4 bits."""
    head = model.get_output_embeddings()
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and "forward" not in vars(head)
    return head if plain and head.weight.is_floating_point() else None


@contextmanager
def in_place_of(head: nn.Linear, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let the head compute something else inside; its hooks still run, those that gather sharded weights too."""
    head.forward = function  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del head.forward


@torch.no_grad()
def _measured(model: Any) -> LogitTransform | None:
    head = plain_head(model)
    if head is None:
        return None
    # Powers of two keep the quotient exact; the last one is beyond any cap.
    shown = torch.tensor([2.0**-10, -1.0, 4.0, 32.0, -64.0, 2.0**40], device=head.weight.device)
    was_training = model.training
    model.eval()
    try:
        with in_place_of(head, lambda hidden: shown.expand(*hidden.shape[:-1], -1)):
            ids = torch.zeros(1, 1, dtype=torch.long, device=head.weight.device)
            seen = model(input_ids=ids, use_cache=False).logits.float().flatten()
    finally:
        model.train(was_training)
    if seen.shape != shown.shape:
        return None
    scale, last = float(seen[0] / shown[0]), float(seen[-1])
    transform = LogitTransform(scale, math.inf if last == float(shown[-1]) * scale else last)
    same = torch.allclose(transform(shown[None])[0], seen, rtol=1e-4)
    return transform if same and scale > 0 else None
