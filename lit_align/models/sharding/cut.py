"""The weights of a causal LM are cut into shards, one on each rank.

FSDP2 (``ModelParallelStrategy``) makes each weight a DTensor, and FSDP1 (``FSDPStrategy``) makes a layer's weights
pieces of one flat tensor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FlatModule

from lit_align.compat import decoder_layers

Shard = Callable[[nn.Module], nn.Module]
"""Such a function cuts the weights of a causal LM over the ranks and returns what to call in its place."""


def sharding(strategy: Strategy, precision: str = "32-true") -> Shard | None:
    """Return how a strategy shards networks; None where every rank keeps all weights.

    Args:
        strategy: The trainer's.
        precision: The trainer's. Under ``bf16-mixed`` FSDP2 gathers float32 weights as bfloat16, which halves traffic
            and the memory of sampling; gradients are averaged in float32.

    Raises:
        ValueError: The strategy cuts single layers (tensor parallelism), or rounds the weights by rules of its own.
    """
    if isinstance(strategy, ModelParallelStrategy):
        mesh = strategy.device_mesh
        if mesh["tensor_parallel"].size() != 1:
            raise ValueError(
                f"trainer.strategy.tensor_parallel_size is {mesh['tensor_parallel'].size()}: layers are not split; set "
                f"it to 1 and data_parallel_size to {mesh.size()}, the number of devices"
            )
        dtype = torch.bfloat16 if precision == "bf16-mixed" else None
        return partial(shard, mesh=mesh["data_parallel"], dtype=dtype)
    if isinstance(strategy, FSDPStrategy):
        if strategy.mixed_precision is not None:
            raise ValueError(
                "trainer.strategy.mixed_precision: responses would be sampled at another precision than they are "
                "trained at; set policy.dtype, or trainer.precision to bf16-mixed"
            )
        options = {name: value for name, value in strategy.kwargs.items() if name != "auto_wrap_policy"}
        return partial(
            shard_flat,
            device_id=strategy.root_device,
            sharding_strategy=strategy.sharding_strategy,
            cpu_offload=strategy.cpu_offload,
            **options,
        )
    return None


def check_takes_shards(optimizer: Callable[[Any], torch.optim.Optimizer]) -> None:
    """Refuse an optimiser whose kernels know nothing of shards, before any weights load.

    Raises:
        ValueError: The optimiser is one of bitsandbytes.
    """
    kind = type(optimizer([nn.Parameter(torch.zeros(1))]))
    if kind.__module__.startswith("bitsandbytes"):
        raise ValueError(
            f"model.optimizer: {kind.__name__} keeps its state of whole weights, and these are in shards; so is the "
            "state of torch.optim.AdamW: use that"
        )


def shard(network: nn.Module, mesh: Any, dtype: torch.dtype | None = None) -> nn.Module:
    """Shard with FSDP2: each decoder layer is a group that is gathered as one, and so is the rest.

    Args:
        network: A causal LM, adapted or not; its class becomes one of FSDP2's.
        mesh: The ranks, in one dimension.
        dtype: Weights are gathered in this dtype; None, or 4-bit weights, are gathered as they are.
    """
    if isinstance(network, FSDPModule):
        return network
    rounding = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if dtype else MixedPrecisionPolicy()
    policy = MixedPrecisionPolicy() if _four_bit(network) else rounding
    for layer in decoder_layers(network):
        fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    return network


def shard_flat(network: nn.Module, **options: Any) -> nn.Module:
    """Shard with FSDP1: a decoder layer is a flat tensor, and so is the rest; adapters of another dtype have their own.

    Args:
        network: A causal LM, adapted or not.
        options: Options of torch's ``FullyShardedDataParallel``.

    Raises:
        ValueError: The weights are in 4 bits.
    """
    if isinstance(network, FlatModule):
        return network
    if _four_bit(network):
        raise ValueError("model.policy.quantization: FSDP1 cannot cut 4-bit weights; use configs/overlays/fsdp2.yaml")
    layers, frozen = decoder_layers(network), next(iter(network.parameters())).dtype

    def alone(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
        """Say whether a module has a flat tensor of its own."""
        other = any(parameter.dtype != frozen for parameter in module.parameters())
        return recurse or any(module is layer for layer in layers) or (other and not list(module.children()))

    return FlatModule(network, **({"use_orig_params": True} | options | {"auto_wrap_policy": alone}))


def clip_flat(network: nn.Module, largest: float) -> float | None:
    """Clip the gradients of an FSDP1 network by their norm over all ranks; return it, or None if nothing trains."""
    roots = FlatModule.fsdp_modules(network, root_only=True)
    trained = [root for root in roots if any(parameter.requires_grad for parameter in root.parameters())]
    norms = [float(root.clip_grad_norm_(largest)) for root in trained]
    return max(norms, default=None)


def _four_bit(network: nn.Module) -> bool:
    return any(type(parameter).__name__ == "Params4bit" for parameter in network.parameters())
