"""Two policies that should be one and the same, and are checked to be: the commonest silent fault of the field."""

import torch
from torch import Tensor, nn


def check_same(names: str, first: Tensor | None, second: Tensor | None, *, exact: bool) -> None:
    """Refuse token log-probs that differ by more than rounding.

    Args:
        names: Which policies they are of, for the message.
        first: Token log-probs, nats; None checks nothing.
        second: The other's.
        exact: Both were computed in full precision; else a coarse check is all there can be.

    Raises:
        RuntimeError: They differ.
    """
    if first is None or second is None:
        return
    gap = float((first - second.to(first.device)).abs().max())
    if gap > (1e-2 if exact else 0.5):
        raise RuntimeError(
            f"{names} should be the same as an iteration begins, but differ by {gap:.3g} nats on a token: are both "
            "loaded in the same precision, and is dropout off?"
        )


def has_dropout(network: nn.Module) -> bool:
    """Whether dropout is at work in it now."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 and module.training for module in network.modules())


def full_precision(trainer_precision: object, dtype: torch.dtype) -> bool:
    """Whether log-probs are computed without rounding to half precision."""
    return str(trainer_precision).startswith(("32", "64")) and dtype in (torch.float32, torch.float64)
