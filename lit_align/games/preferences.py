r"""Preference matrices :math:`P(y \succ z)` of small response sets come from rewards, are intransitive, or random."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Real
from torch import Tensor

from lit_align.games.checks import check_count, check_positive, check_rewards


def hard_preference(rewards: Real[Tensor, "*batch Y"]) -> Float[Tensor, "*batch Y Y"]:
    r"""Return the preference under which the better reward always wins: 0, ½ or 1.

    .. math::
        P(y \succ z) = 1\{r(y) > r(z)\} + \tfrac12\, 1\{r(y) = r(z)\}
    """
    first, second = _pairs(rewards)
    return ((first > second).double() + (first >= second).double()) / 2


def bradley_terry_preference(
    rewards: Real[Tensor, "*batch Y"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch Y Y"]:
    r"""Return the preference whose wins are logistic in the difference of rewards.

    .. math::
        P(y \succ z) = \sigma\big((r(y) - r(z)) / temperature\big)

    ``temperature`` > 0 is in the unit of the rewards; larger is closer to ½, towards 0 it is :func:`hard_preference`.
    """
    check_positive("temperature", temperature)
    first, second = _pairs(rewards)
    return torch.sigmoid((first - second) / temperature)


def dominance(rewards: Real[Tensor, "*batch Y"]) -> Float[Tensor, "*batch Y Y"]:
    """Return P(y is at least as good as z), 0 or 1: ties count in full, so the diagonal is one."""
    first, second = _pairs(rewards)
    return (first >= second).double()


def rock_paper_scissors(margin: float = 0.5) -> Float[Tensor, "3 3"]:
    """Return the smallest intransitive preference: 0 beats 1, 1 beats 2, 2 beats 0, each by ``margin`` over ½.

    ``margin`` lies in (0, ½]; ½ is certain.
    """
    if not 0 < margin <= 0.5:
        raise ValueError(f"margin must lie in (0, 0.5], got {margin}")
    cycle = torch.tensor([[0, 1, -1], [-1, 0, 1], [1, -1, 0]], dtype=torch.float64)
    return 0.5 + margin * cycle


def random_skew(
    batch: Sequence[int], responses: int, *, generator: torch.Generator | None = None
) -> Float[Tensor, "*batch Y Y"]:
    """Draw preferences without a reward behind them: every pair's P(y beats z) is uniform in [0, 1].

    Args:
        batch: Leading dimensions, () for one matrix.
        responses: Y, >= 1.
        generator: Source of randomness; None is the global one.
    """
    check_count("responses", responses, least=1)
    size = (*batch, responses, responses)
    upper = torch.rand(size, dtype=torch.float64, generator=generator)
    return 0.5 + (upper - 0.5).triu(1) - (upper - 0.5).triu(1).mT


def _pairs(rewards: Tensor) -> tuple[Tensor, Tensor]:
    rewards = check_rewards("rewards", rewards)
    return rewards.unsqueeze(-1), rewards.unsqueeze(-2)
