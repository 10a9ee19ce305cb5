"""Win-rate dominance (WIND) trains with :mod:`lit_align.losses.wind`, which names [1] and derives the exact step."""

from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.iteration.module import AlignmentModule
from lit_align.judges.base import Judge
from lit_align.losses.groups import group_shares
from lit_align.losses.wind import wind_kl, wind_nce, wind_squared
from lit_align.models.policy import Policy
from lit_align.types import Rollouts

RISKS = {"squared": wind_squared, "kl": wind_kl, "nce": wind_nce}


class WIND(AlignmentModule):
    r"""Takes one proximal step towards the equilibrium of a regularised game in each iteration [1].

    .. math::
        \pi_{t+1} = \arg\max_\pi \langle \pi, w_t \rangle - \beta \mathrm{KL}(\pi \| \pi_{ref})
            - \tfrac1\eta \mathrm{KL}(\pi \| \pi_t), \quad w_t(y) = P(y \succ \pi_t).

    With exact win rates and 0 < eta <= 4 beta, the KL divergence from the equilibrium shrinks by 1/(1 + beta eta) or
    faster in every iteration (derived). The win rates are those of the group itself, self-comparison included: for
    responses drawn from pi_t, the squared risk then has the exact step as its population minimiser at every group size
    and whichever comparisons are missing; the KL and NCE risks fall short of it, by 10 to 15 % for hard preferences at
    groups of 3 to 8.

    Args:
        beta: KL strength towards the reference, >= 0, in win-rate units per nat; 0 is the SPPO step.
        eta: Step size, > 0, in nats per unit of win rate: an iteration tilts log-probs by eta / (1 + beta eta) times
            the win rate.
        risk: ``squared`` (the one with a finite-sample guarantee in [1]), ``kl`` or ``nce``.
    """

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 0.1,
        eta: float = 1.0,
        risk: Literal["squared", "kl", "nce"] = "squared",
        **kwargs: Any,
    ) -> None:
        if beta < 0:
            raise ValueError(f"model.beta must be >= 0, got {beta}")
        if eta <= 0:
            raise ValueError(f"model.eta must be > 0, got {eta}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.eta = eta
        self.risk = partial(RISKS[risk], beta=beta, eta=eta)

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        logps = rollouts.policy_logps
        values = self.risk(
            logps,
            rollouts.anchor_logps,
            rollouts.reference_logps,
            rollouts.win_rates,
            weights=group_shares(rollouts.met, rollouts.weights, dtype=logps.dtype),
        )
        return values, rollouts.met.any(-1).to(values.dtype)
