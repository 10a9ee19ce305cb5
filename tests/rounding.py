"""Bounds in units of rounding: how far two computations of the same numbers may be apart, on any machine.

Batches of another shape, other kernels and other vector units sum in another order. What that changes is counted in
steps, from a number of the dtype to the next one, at the size of the numbers that were summed.
"""

import math

import torch

AGAIN = 128  # steps: the same network once more, in a batch of another shape or on other kernels
TRAINED = 1024  # steps: networks that were trained apart, whose updates have passed the rounding on


def steps_of(dtype: torch.dtype, size: float, count: float = 1) -> float:
    """So many steps of a dtype at a size."""
    return count * torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(size)) if size else 0.0


def steps_apart(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> float:
    """The largest difference, in steps of a dtype at the size of the largest number; 0 where there is none."""
    difference, size = (float(values.abs().max()) for values in (found - expected, expected))
    return difference / steps_of(dtype, size) if difference else 0.0


def assert_same_but_rounding(found: torch.Tensor, expected: torch.Tensor, steps: float = AGAIN, name: str = "") -> None:
    """Two tensors are at most so many steps of their dtype apart, at the size of the largest number."""
    inexact = expected.is_floating_point() and expected.numel() > 0
    bound = steps_of(expected.dtype, float(expected.abs().max()), steps) if inexact else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=bound, msg=lambda text: f"{name} {text}".strip())
