"""Momentum adds a second, frozen low-rank update beside the trainable adapters.

Adding to LoRA factors does not add to their product, and a sum of two products has twice the rank. So the sum is kept
as a pair of factors of its own, added in the forward pass wherever an adapter is, and never trained.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Factors = tuple[Float[Tensor, "_ _"], Float[Tensor, "_ _"]]  # the shapes are [out, rank] and [rank, in]; ranks differ
"""An update B A is kept as the pair of B and A."""


def attach(model: nn.Module) -> dict[str, Any]:
    """Let every LoRA layer add the update it has been given; return the layers by name."""
    from peft.tuners.lora import LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    for layer in layers.values():
        layer.frozen_update = None
        layer.register_forward_hook(_add)
    return layers


def factor_weights(layer: Any) -> Factors:
    """Return the trainable factors of a layer; in the update of an embedding, each column is a word."""
    (name,) = layer.active_adapters
    if name in layer.lora_embedding_A:
        return layer.lora_embedding_B[name], layer.lora_embedding_A[name]
    return layer.lora_B[name].weight, layer.lora_A[name].weight


def factors_of(layer: Any) -> Factors:
    """Return a copy of the trainable update of a layer, with its scaling in B."""
    (name,) = layer.active_adapters
    first, second = factor_weights(layer)
    return first.detach() * layer.scaling[name], second.detach().clone()


def combine(terms: list[tuple[float, Factors]], rank: int | None = None) -> tuple[Factors, float]:
    """Return a weighted sum of updates as one pair of factors.

    Args:
        terms: Coefficient and factors of each update.
        rank: Largest rank of the result; None keeps all that is not rounding.

    Returns:
        The factors, and the norm of what was left out relative to the whole (Frobenius).
    """
    left = torch.cat([coefficient * first.double() for coefficient, (first, _) in terms], dim=1)
    right = torch.cat([second.double() for _, (_, second) in terms], dim=0)
    # The singular values of a product are those of the product of its triangular factors.
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, values, vh = torch.linalg.svd(r_left @ r_right.T)
    whole = float(values.norm())
    kept = int((values > 1e-7 * values.max().clamp(min=1e-30)).sum()) if whole else 0
    kept = max(1, kept if rank is None else min(kept, rank))
    error = float(values[kept:].norm()) / whole if whole else 0.0
    dtype = terms[0][1][0].dtype
    root = values[:kept].sqrt()
    return ((q_left @ u[:, :kept] * root).to(dtype), (root[:, None] * vh[:kept] @ q_right.T).to(dtype)), error


def _add(layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    if layer.frozen_update is None or layer.disable_adapters:
        return output
    first, second = layer.frozen_update
    if layer.lora_embedding_A:
        inner = nn.functional.embedding(inputs[0], second.T) * getattr(layer.get_base_layer(), "embed_scale", 1.0)
    else:
        inner = nn.functional.linear(inputs[0].to(second.dtype), second)
    return output + nn.functional.linear(inner.to(first.dtype), first).to(output.dtype)
