"""A counter-based generator gives each token a random number that does not depend on batching.

The number is a hash of (seed, iteration, prompt, place in the group, position), so batch composition, order, ranks and
restarts cannot change it. The mixing function is the finaliser of SplitMix64 [1]; int64 wraps alike on all devices.

[1] G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
"""

import os

import torch
from jaxtyping import Float, Int
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_BITS = 24  # a float32 in [0, 1) holds 24 random bits exactly, so no uniform ever rounds to 1


def token_uniforms(
    record_id: Int[Tensor, " batch"], group_size: int, length: int, *, seed: int, iteration: int
) -> Float[Tensor, "batch group length"]:
    """Return a uniform number in [0, 1), a float32 multiple of 2^-24, for each of ``length`` tokens of each response.

    ``seed`` is the run's for one purpose, such as training or evaluation.
    """
    device = record_id.device
    key = _absorb(_absorb(torch.zeros((), dtype=torch.int64, device=device), seed), iteration)
    key = _absorb(key, record_id)[:, None, None]
    key = _absorb(key, torch.arange(group_size, device=device)[None, :, None])
    key = _absorb(key, torch.arange(length, device=device)[None, None, :])
    return _shift_right(key, 64 - _BITS).to(torch.float32) * 2.0**-_BITS


def _absorb(key: Tensor, value: Tensor | int) -> Tensor:
    """Mix one more part into the key."""
    x = key + (torch.as_tensor(value, dtype=torch.int64, device=key.device) + 1) * _signed(_GOLDEN)
    x = (x ^ _shift_right(x, 30)) * _signed(_MIX[0])
    x = (x ^ _shift_right(x, 27)) * _signed(_MIX[1])
    return x ^ _shift_right(x, 31)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros, for torch's own shift keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant


def mixed_seed(*parts: int) -> int:
    """Return one 63-bit seed from several integers; other integers give a stream that does not resemble it."""
    key = torch.zeros((), dtype=torch.int64)
    for part in parts:
        key = _absorb(key, part)
    return int(key) & (2**63 - 1)


def run_seed() -> int:
    """Return the seed that `seed_everything` set, the same on every rank; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
