"""The state of an optimiser by the names of the weights it is of, so that any number of devices can take it up."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from lit_align.models.gathering import trainable


def named(state: dict[str, Any], optimizer: Optimizer, network: nn.Module) -> dict[str, Any]:
    """An optimiser's state dict with names in the place of numbers.

    Numbers count the optimiser's parameters on a single device and those of the whole network, frozen ones included,
    where a sharded one was gathered: with adapters the two differ. Optimisers load either names or numbers.

    Args:
        state: As Lightning saves it; empty on the ranks that save nothing.
        optimizer: Whose it is.
        network: Whose parameters it trains.
    """
    if not state:
        return state
    names = {id(parameter): name for name, parameter in trainable(network)}
    pairs = list(zip(state["param_groups"], optimizer.param_groups, strict=True))
    name_of = {
        number: names[id(parameter)]
        for saved, group in pairs
        for number, parameter in zip(saved["params"], group["params"], strict=True)
    }
    return {
        **state,
        "state": {name_of[number]: value for number, value in state["state"].items()},
        "param_groups": [{**saved, "params": [name_of[number] for number in saved["params"]]} for saved, _ in pairs],
    }
