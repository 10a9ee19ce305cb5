"""Accelerated preference optimisation is iterative DPO, IPO or SPPO with Nesterov momentum.

[1] J. He, H. Yuan, Q. Gu, "Accelerated Preference Optimization for Large Language Model Alignment", 2024,
    arXiv:2410.06293.

The authors call it APO, a name that anchored preference optimisation (arXiv:2408.06266) has too.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.algorithms.sppo import Offset, Opponents, sppo_losses
from lit_align.anchors.extrapolated import Extrapolated
from lit_align.judges.base import Judge
from lit_align.losses.dpo import dpo
from lit_align.losses.ipo import ipo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class AcceleratedPO(PairwiseModule):
    r"""Iterates preference optimisation as a proximal-point method, sped up by extrapolation [1, Algorithm 1].

    .. math::
        \hat\pi_{t+1} = \arg\min_\pi E\, \ell(\pi, \pi_t), \quad
        \pi_{t+1} \propto \hat\pi_{t+1} (\hat\pi_{t+1} / \hat\pi_t)^\alpha

    The extrapolation is made in weights, as in [1]; see :class:`~lit_align.anchors.extrapolated.Extrapolated`.
    Responses are drawn from, the loss compares with, and training starts from the extrapolated pi_t; what is evaluated,
    saved and exported is :math:`\hat\pi`. For a reward r and exact DPO iterations, T of them tilt the reference by
    :math:`W_T r/\beta` with :math:`W_T \to T/(1-\alpha) - \alpha/(1-\alpha)^2`. With intransitive preferences momentum
    speeds up cycling instead, and at every alpha it amplifies the noise of the single fits.

    Args:
        objective: ``dpo``, ``ipo`` or ``sppo``: the loss of one iteration.
        alpha: Momentum in [0, 1); 0 is the plain iterative method, 0.3 the value of [1].
        beta: Inverse step size, > 0: DPO's and SPPO's beta, IPO's tau; or a list, one for each iteration, whose last
            one serves all later ones. [1] uses 0.01, 0.1, 1.0.
        offset: SPPO's offset: ``half`` or ``partition``.
        opponents: SPPO's opponents: the ``others`` of a group, or the whole ``group``.
        rank: Largest rank of the momentum beside low-rank adapters; None keeps all of it, which grows.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        objective: Literal["dpo", "ipo", "sppo"] = "dpo",
        alpha: float = 0.3,
        beta: float | list[float] = 0.1,
        offset: Offset = "half",
        opponents: Opponents = "others",
        rank: int | None = None,
        **kwargs: Any,
    ) -> None:
        betas: Sequence[float] = beta if isinstance(beta, Sequence) else [beta]
        if not betas or min(betas) <= 0:
            raise ValueError(f"model.beta must be > 0 in every iteration, got {beta}")
        super().__init__(policy, judge, anchor=Extrapolated(alpha, rank), **kwargs)
        self.objective = objective
        self.betas = list(betas)
        self.offset: Offset = offset
        self.opponents: Opponents = opponents

    @property
    def beta(self) -> float:
        """Return the beta of this iteration."""
        return self.betas[min(int(self.iteration), len(self.betas) - 1)]

    @override
    def loss(self, rollouts: Rollouts) -> tuple[Float[Tensor, "batch terms"], Float[Tensor, "batch terms"]]:
        if self.objective == "sppo":
            return sppo_losses(rollouts, self.pairing, beta=self.beta, offset=self.offset, opponents=self.opponents)
        return super().loss(rollouts)

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        if self.objective == "ipo":
            return ipo(*logps, tau=self.beta, preference=pairs.preference)
        return dpo(*logps, beta=self.beta, preference=pairs.preference)
