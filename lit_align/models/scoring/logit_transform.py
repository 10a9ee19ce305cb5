"""A causal LM may scale or cap what its head says; which it does is found out here, and the head may be replaced.

Most models multiply hidden states by the weights of their head and are done. Some scale the logits (Cohere, Granite),
some cap them (Gemma). Which it is, is not read from the names of a config: a model is shown numbers in the place of its
logits once, and what comes out says what it does to them.
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
    r"""From the head's output x to logits: :math:`c \tanh(s x / c)`, which is :math:`s x` without a cap.

    Attributes:
        scale: s, > 0.
        cap: c, > 0; infinite where there is none.
    """

    scale: float = 1.0
    cap: float = math.inf

    def __call__(self, output: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"]:
        """Logits."""
        scaled = output if self.scale == 1 else output * self.scale
        return scaled if self.cap == math.inf else (scaled / self.cap).tanh() * self.cap

    def slope(self, logits: Float[Tensor, "tokens vocab"]) -> Float[Tensor, "tokens vocab"] | float:
        """Derivative of the logits with respect to the head's output, in [0, scale]."""
        return self.scale if self.cap == math.inf else self.scale * (1 - (logits / self.cap) ** 2)


def logit_transform_of(model: nn.Module) -> LogitTransform | None:
    """What the model does after its head; None where that, or the head, is of another kind."""
    if model not in _MEASURED:
        _MEASURED[model] = _measured(model)
    return _MEASURED[model]


def plain_head(model: Any) -> nn.Linear | None:
    """The head, where it is one matrix of floating-point numbers and nothing else: no adapter, no 4-bit weights."""
    head = model.get_output_embeddings()
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward and "forward" not in vars(head)
    return head if plain and head.weight.is_floating_point() else None


@contextmanager
def in_place_of(head: nn.Linear, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The head computes something else; its hooks run as ever, those that gather sharded weights among them."""
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
