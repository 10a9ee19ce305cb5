"""Checks of a game's inputs say in one clear line which entry is wrong first.

Each takes the ``name`` by which its caller knows the value, and promotes tensors to float64: equilibria are stated to
1e-12.
"""

import math

import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

TOLERANCE = 1e-6
"""A sum this far from one is a mistake and not rounding (float32 policies are nearer)."""


def check_distribution(name: str, law: Float[Tensor, "*batch Y"]) -> Float[Tensor, "*batch Y"]:
    """Return a law in float64, its rows normalised; refuse one that is not finite, >= 0 and of sum 1 to 1e-6."""
    law = law.double()
    _refuse(name, law, ~((law >= 0) & (law < math.inf)), "probabilities are finite and never negative")
    total = law.sum(-1, keepdim=True)
    wrong = (total[..., 0] - 1).abs() > TOLERANCE
    if wrong.any():
        index = _first(wrong)
        raise ValueError(f"{name}{_at(index)} sums to {float(total[(*index, 0)]):.7g}, not 1: normalise it")
    return law / total


def check_preference(name: str, preference: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return a preference in float64, made exactly antisymmetric; refuse one where P + P^T is not 1 to 1e-6."""
    preference = _check_probabilities(name, preference)
    total = preference + preference.mT
    wrong = (total - 1).abs() > TOLERANCE
    if wrong.any():
        *batch, y, z = index = _first(wrong)
        raise ValueError(
            f"{name}{_at(index)} + {name}{_at([*batch, z, y])} is {float(total[tuple(index)]):.7g}, not 1: "
            "P(y beats z) + P(z beats y) must be 1, and the diagonal ½"
        )
    return (preference + (1 - preference.mT)) / 2


def check_dominance(name: str, dominance: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return a dominance in float64; refuse one that is not of probabilities, or where D + D^T is below one."""
    dominance = _check_probabilities(name, dominance)
    wrong = dominance + dominance.mT < 1 - TOLERANCE
    if wrong.any():
        *batch, y, z = index = _first(wrong)
        raise ValueError(
            f"{name}{_at(index)} + {name}{_at([*batch, z, y])} is below 1: one of two responses is at least as good"
        )
    return dominance


def check_rewards(name: str, rewards: Real[Tensor, "*batch Y"]) -> Float[Tensor, "*batch Y"]:
    """Return rewards in float64; refuse what is not finite."""
    rewards = rewards.double()
    _refuse(name, rewards, ~rewards.isfinite(), "rewards are finite")
    return rewards


def check_positive(name: str, value: float) -> None:
    """Refuse what is not a finite number above zero."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be > 0 and finite, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Refuse what is not a finite number from zero up."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be >= 0 and finite, got {value}")


def check_count(name: str, value: int | float, *, least: int) -> None:
    """Refuse what is not a whole number from ``least`` up."""
    if not (least <= value < math.inf and value == int(value)):
        raise ValueError(f"{name} must be a whole number >= {least}, got {value}")


def check_alpha(alpha: float) -> None:
    """Refuse an extrapolation outside [0, 1)."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must lie in [0, 1), got {alpha}")


def _check_probabilities(name: str, matrix: Tensor) -> Tensor:
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"{name} has shape {list(matrix.shape)}, not [..., Y, Y]: one row and column per response")
    matrix = matrix.double()
    _refuse(name, matrix, ~((matrix >= 0) & (matrix <= 1)), "every entry is a probability in [0, 1]")
    return matrix


def _refuse(name: str, values: Tensor, wrong: Bool[Tensor, "*shape"], rule: str) -> None:
    if wrong.any():
        index = _first(wrong)
        raise ValueError(f"{name}{_at(index)} is {float(values[tuple(index)]):.7g}: {rule}")


def _first(wrong: Bool[Tensor, "*shape"]) -> list[int]:
    return [int(i) for i in torch.nonzero(wrong)[0]]


def _at(index: list[int]) -> str:
    return f"[{', '.join(map(str, index))}]" if index else ""
