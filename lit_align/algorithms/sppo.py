"""Self-play preference optimisation.

[1] Y. Wu, Z. Sun, H. Yuan, K. Ji, Y. Yang, Q. Gu, "Self-Play Preference Optimization for Language Model Alignment",
    ICLR 2025, arXiv:2405.00675.
"""

from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.judges import Judge
from lit_align.losses import sppo, sppo_offset
from lit_align.models import Policy
from lit_align.types import Rollouts

Offset = Literal["half", "partition"]
Opponents = Literal["others", "group"]


class SPPO(PairwiseModule):
    r"""Self-play by multiplicative weights: :math:`\pi_{t+1} \propto \pi_t \exp(P(y \succ \pi_t)/\beta)` [1].

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better.
        beta: Inverse step size, > 0, win rate per nat; larger moves less far in one iteration. [1] uses 1e-3.
        offset: What is taken off the win rates. ``half``, as in [1]: right to first order in 1/beta only;
            ``partition``: the log-partition estimated from the group, right when responses are enumerated.
        opponents: Whom a response's win rate is against: the ``others`` of its group, which is unbiased with a constant
            offset, or the whole ``group`` with itself at ½, as the authors' code has it.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`; ``pairing`` is ``best_worst`` by default,
            the recipe of [1], a heuristic: the theory regresses every response (``all``).

    Raises:
        ValueError: beta <= 0.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge,
        beta: float = 1e-3,
        offset: Offset = "half",
        opponents: Opponents = "others",
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.offset: Offset = offset
        self.opponents: Opponents = opponents

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Squared errors of the two log-ratios."""
        return sppo_pair_losses(rollouts, pairs, beta=self.beta, offset=self.offset, opponents=self.opponents)


def sppo_pair_losses(
    rollouts: Rollouts, pairs: Pairs, *, beta: float, offset: Offset, opponents: Opponents
) -> Float[Tensor, "batch pairs"]:
    """The loss of :class:`SPPO` on pairs; arguments as there."""
    win_rates = rollouts.win_rates if opponents == "group" else rollouts.win_rates_against_others
    constant: Tensor | float = 0.5
    if offset == "partition":
        constant = sppo_offset(win_rates, beta=beta, weights=rollouts.weights)[:, None].expand_as(pairs.weights)
    return sppo(
        *policy_and(rollouts.anchor_logps, rollouts, pairs),
        beta=beta,
        chosen_win_rates=gather(win_rates, pairs.first),
        rejected_win_rates=gather(win_rates, pairs.second),
        offset=constant,
    )
