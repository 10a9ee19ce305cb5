"""Weights that are in shards are made whole again: to sample and score, for files, for another number of ranks.

What may be done to a weight in place, element by element, is done to this rank's :func:`piece`; for all else the
weights are gathered.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FlatModule
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_align.compat import FLAT_WRAPPER


@contextmanager
def gathered(*networks: nn.Module) -> Iterator[None]:
    """Make every weight whole on every rank inside, so that a forward pass needs no other rank.

    Ranks may then sample responses of different lengths and score different numbers of batches, without gradients.
    Changes made to the weights inside are lost. All ranks enter and leave together. A network that is not
    sharded stays as it is.
    """
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(_unsharded(network))
            stack.enter_context(_summoned(network))
        yield


def piece(parameter: Tensor) -> Tensor:
    """Return the part of a weight that this rank keeps, in the same memory; all of it where it is not sharded."""
    mine: Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return mine.detach()


def plain_name(name: str) -> str:
    """Return a weight's name without what sharding adds to it."""
    return name.replace(FLAT_WRAPPER, "")


def trainable(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the names and parameters that training changes."""
    named = network.named_parameters()
    return [(plain_name(name), parameter) for name, parameter in named if parameter.requires_grad]


def is_first_rank() -> bool:
    """Say whether this process is the one that writes."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def is_flat(network: nn.Module) -> bool:
    """Say whether FSDP1 has cut any of the network."""
    return bool(FlatModule.fsdp_modules(network))


@torch.no_grad()
def full_state(network: nn.Module, *, frozen: bool = True) -> dict[str, Tensor]:
    """Return the whole weights on the CPU of rank 0, and nothing elsewhere; all ranks call it together.

    Weights that do not train are left out unless ``frozen``.
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
    """Cut whole trainable weights, the same on every rank, as a network's are; all ranks call it together."""
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


@contextmanager
def _unsharded(network: nn.Module) -> Iterator[None]:
    """Gather all groups of FSDP2 now, and let forward passes keep them."""
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
    """Gather all flat tensors of FSDP1 now, and let forward passes go around the hooks that would do it again."""
    modules: list[Any] = FlatModule.fsdp_modules(network)
    with ExitStack() as stack:
        if modules:
            stack.enter_context(FlatModule.summon_full_params(network, writeback=writeback))
        for module in modules:
            module.forward = module.module.__call__
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
