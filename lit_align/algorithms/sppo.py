"""Self-play preference optimisation trains with :mod:`lit_align.losses.sppo`, which names [1]."""

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import PAIRINGS, gather
from lit_align.algorithms.pairwise import Pairing, check_pairing, policy_and
from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.groups import group_mean, group_shares
from lit_align.losses.sppo import sppo, sppo_offset, sppo_regression
from lit_align.models.policy import Policy
from lit_align.types import Rollouts

Offset = Literal["half", "partition"]
Opponents = Literal["others", "group"]


class SPPO(AlignmentModule):
    r"""Plays multiplicative weights against itself: :math:`\pi_{t+1} \propto \pi_t \exp(P(y \succ \pi_t)/\beta)` [1].

    Args:
        beta: Inverse step size, > 0, win rate per nat; larger moves less far in one iteration. [1] uses 1e-3.
        offset: What is taken off the win rates. ``half``, as in [1]: right to first order in 1/beta only;
            ``partition``: the log-partition estimated from the group, right when responses are enumerated.
        opponents: Whom a response's win rate is against: the ``others`` of its group, which is unbiased with a constant
            offset, or the whole ``group`` with itself at ½, as the authors' code has it.
        pairing: Whose log-ratios are regressed: those of the ``best_worst`` of each group, the recipe of [1], a
            heuristic; of ``random`` pairs; or of ``all`` responses, as in the theory.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 1e-3,
        offset: Offset = "half",
        opponents: Opponents = "others",
        pairing: Pairing = "best_worst",
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        check_pairing(pairing)
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.offset: Offset = offset
        self.opponents: Opponents = opponents
        self.pairing: Pairing = pairing

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch terms"], Float[Tensor, "batch terms"]]:
        return sppo_losses(rollouts, self.pairing, beta=self.beta, offset=self.offset, opponents=self.opponents)


def sppo_losses(
    rollouts: Rollouts, pairing: Pairing, *, beta: float, offset: Offset, opponents: Opponents
) -> tuple[Float[Tensor, "batch terms"], Float[Tensor, "batch terms"]]:
    """Return the loss of :class:`SPPO` and its weights; ``all`` is one term, the mean over responses."""
    win_rates = rollouts.win_rates if opponents == "group" else rollouts.win_rates_against_others
    constant = torch.full_like(win_rates[:, 0], 0.5)
    share = group_shares(rollouts.met, rollouts.weights, dtype=win_rates.dtype)
    if offset == "partition":
        constant = sppo_offset(win_rates, beta=beta, weights=share)
    if pairing == "all":
        total = group_mean(rollouts.met.to(win_rates.dtype), rollouts.weights)
        values = sppo_regression(
            rollouts.policy_logps, rollouts.anchor_logps, win_rates, beta=beta, offset=constant, weights=share
        )
        return values[:, None], total[:, None]
    pairs = PAIRINGS[pairing](rollouts)
    values = sppo(
        *policy_and(rollouts.anchor_logps, rollouts, pairs),
        beta=beta,
        chosen_win_rates=gather(win_rates, pairs.first),
        rejected_win_rates=gather(win_rates, pairs.second),
        offset=constant[:, None].expand_as(pairs.weights),
    )
    return values, pairs.weights
