"""Weights in shards, one on each rank: how they are cut, and how they are whole again while sampling and scoring.

Both of torch's ways are here: FSDP2 (``ModelParallelStrategy``), where a weight is a DTensor, and FSDP1
(``FSDPStrategy``), where a layer's weights are pieces of one flat tensor. What a cut weight's owner may do to it in
place, element by element, it does to its :func:`piece`; for all else the weights are gathered.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.fsdp import FullyShardedDataParallel as FlatModule
from torch.distributed.tensor import DTensor, distribute_tensor

Shard = Callable[[nn.Module], nn.Module]
"""Cuts the weights of a causal LM over the ranks; returns what to call in its place."""

_WRAPPER = "_fsdp_wrapped_module."  # FSDP1 puts it into the names of what it wraps


def sharding(strategy: Strategy, precision: str = "32-true") -> Shard | None:
    """How a strategy wants networks to be sharded; None where every rank keeps the whole of them.

    Args:
        strategy: The trainer's.
        precision: The trainer's. Under ``bf16-mixed`` FSDP2 gathers float32 weights as bfloat16: half the traffic, and
            half the memory while sampling; gradients are averaged in float32.

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


def shard(network: nn.Module, mesh: Any, dtype: torch.dtype | None = None) -> nn.Module:
    """FSDP2: each decoder layer is a group that is gathered as one, and so is the rest.

    Args:
        network: A causal LM, adapted or not; its class becomes one of FSDP2's.
        mesh: The ranks, in one dimension.
        dtype: What weights are gathered as; None gathers them as they are. 4-bit weights always are.
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
    """FSDP1: each decoder layer is one flat tensor, and so is the rest; adapters of another dtype have their own.

    Args:
        network: A causal LM, adapted or not.
        options: As for torch's ``FullyShardedDataParallel``.

    Raises:
        ValueError: The weights are in 4 bits.
    """
    if isinstance(network, FlatModule):
        return network
    if _four_bit(network):
        raise ValueError("policy.quantization: FSDP1 cannot cut 4-bit weights; use configs/overlays/fsdp2.yaml")
    layers, frozen = decoder_layers(network), next(iter(network.parameters())).dtype

    def alone(module: nn.Module, recurse: bool, nonwrapped_numel: int) -> bool:
        """Whether a module has a flat tensor of its own."""
        other = any(parameter.dtype != frozen for parameter in module.parameters())
        return recurse or any(module is layer for layer in layers) or (other and not list(module.children()))

    return FlatModule(network, **({"use_orig_params": True} | options | {"auto_wrap_policy": alone}))


@contextmanager
def gathered(*networks: nn.Module) -> Iterator[None]:
    """Every weight whole on every rank, so that a forward pass asks nothing of the other ranks.

    Ranks may then sample responses of different lengths and score different numbers of batches. Without gradients only;
    changes made to the weights inside are lost. All ranks enter and leave together; networks that are not sharded stay
    as they are.
    """
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(_unsharded(network))
            stack.enter_context(_summoned(network))
        yield


def piece(parameter: Tensor) -> Tensor:
    """The part of a weight that this rank keeps, sharing its memory; all of it where it is not sharded."""
    return parameter.detach().to_local() if isinstance(parameter, DTensor) else parameter.detach()


def plain_name(name: str) -> str:
    """A weight's name without what sharding adds to it."""
    return name.replace(_WRAPPER, "")


def trainable(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters of what training changes."""
    named = network.named_parameters()
    return [(plain_name(name), parameter) for name, parameter in named if parameter.requires_grad]


def is_first_rank() -> bool:
    """Whether this process is the one that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


@torch.no_grad()
def full_state(network: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """The whole weights, copied to the CPU of rank 0; nothing elsewhere. All ranks call it together.

    Args:
        network: Sharded or not.
        frozen: Also what does not train.
    """
    state = {}
    with _summoned(network):
        for name, parameter in network.named_parameters(remove_duplicate=False):
            if frozen or parameter.requires_grad:
                whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                if is_first_rank():
                    state[plain_name(name)] = whole.detach().to("cpu", copy=True)
    return state


@torch.no_grad()
def pieces_of(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Whole trainable weights, the same on every rank, cut as a network's are. All ranks call it together."""
    if not is_flat(network):
        return {name: _cut(state[name], parameter) for name, parameter in trainable(network)}
    own = {name: piece(parameter).clone() for name, parameter in trainable(network)}
    with _summoned(network, writeback=True):
        for name, parameter in trainable(network):
            parameter.copy_(state[name])
    cut = {name: piece(parameter).clone() for name, parameter in trainable(network)}
    for name, parameter in trainable(network):
        piece(parameter).copy_(own[name])
    return cut


def is_flat(network: nn.Module) -> bool:
    """Whether FSDP1 has cut any of it."""
    return bool(FlatModule.fsdp_modules(network))


def clip_flat(network: nn.Module, largest: float) -> bool:
    """Clip the gradients of FSDP1 networks by their norm over all ranks; False where there are none."""
    roots = FlatModule.fsdp_modules(network, root_only=True)
    trained = [root for root in roots if any(parameter.requires_grad for parameter in root.parameters())]
    for root in trained:
        root.clip_grad_norm_(largest)
    return bool(trained)


def decoder_layers(network: nn.Module) -> list[nn.Module]:
    """The blocks that a causal LM is a stack of, in order."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def _unsharded(network: nn.Module) -> Iterator[None]:
    """FSDP2: all groups are gathered now, and forward passes do not let go of them."""
    modules = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not network, recurse=False)


@contextmanager
def _summoned(network: nn.Module, writeback: bool = False) -> Iterator[None]:
    """FSDP1: all flat tensors are gathered now, and forward passes go around the hooks that would do it again."""
    modules: list[Any] = FlatModule.fsdp_modules(network)
    with ExitStack() as stack:
        if modules:
            stack.enter_context(FlatModule.summon_full_params(network, writeback=writeback))
        for module in modules:
            module.forward = module._fsdp_wrapped_module.__call__
        try:
            yield
        finally:
            for module in modules:
                del module.forward


def _cut(whole: Tensor, like: Tensor) -> Tensor:
    if not isinstance(like, DTensor):
        return whole.to(like.device, copy=True)
    whole = whole.to(like.device)
    # Every rank has the same tensor and takes its own part: nothing is sent.
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None).to_local().clone()


def _four_bit(network: nn.Module) -> bool:
    return any(type(parameter).__name__ == "Params4bit" for parameter in network.parameters())
