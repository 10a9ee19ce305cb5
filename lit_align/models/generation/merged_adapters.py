"""Adapters are summed into the weights while nothing trains: a step of sampling is then that of the base model.

Beside a linear layer an adapter costs two small matrix products, a scaling and a sum, which small batches notice. The
sums are kept apart and the weights never touched, so nothing has to be undone.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@contextmanager
def merged_adapters(layers: Iterable[Any]) -> Iterator[None]:
    """Let each of these LoRA layers compute with one matrix inside, its adapter and frozen update included.

    This is for float32 alone: in half precision the sum of a weight and a small update is rounded to the weight, and
    sampling would see another policy than training. Layers that are not plain (4-bit, sharded, DoRA) stay as they are.

    Args:
        layers: LoRA layers of peft, each with its ``frozen_update``.
    """
    merged = [(layer, layer.frozen_update) for layer in layers if _plain(layer)]
    for layer, _ in merged:
        layer.forward = _forward_with(layer, _merged_weight(layer))
        layer.frozen_update = None
    try:
        yield
    finally:
        for layer, update in merged:
            del layer.forward  # the class's own is back
            layer.frozen_update = update


def _plain(layer: Any) -> bool:
    base = layer.get_base_layer()
    if type(base) is not nn.Linear or type(base.weight) is not nn.Parameter or len(layer.active_adapters) != 1:
        return False
    (name,) = layer.active_adapters
    if layer.merged or layer.disable_adapters or name not in layer.lora_A or name in layer.lora_variant:
        return False
    factors = (layer.lora_A[name], layer.lora_B[name])
    return base.weight.dtype == torch.float32 and all(
        type(factor) is nn.Linear and factor.bias is None and factor.weight.dtype == torch.float32 for factor in factors
    )


@torch.no_grad()
def _merged_weight(layer: Any) -> Tensor:
    (name,) = layer.active_adapters
    second, first = layer.lora_A[name].weight, layer.lora_B[name].weight
    total: Tensor = torch.addmm(layer.get_base_layer().weight, first, second, alpha=layer.scaling[name])
    if layer.frozen_update is not None:
        total.addmm_(*layer.frozen_update)
    return total


def _forward_with(layer: Any, weight: Tensor) -> Callable[[Tensor], Tensor]:
    base = layer.get_base_layer()

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        del args, kwargs
        result: Tensor = base(x) if layer.disable_adapters else F.linear(x, weight, base.bias)
        return result

    return forward
