"""Optimistic Nash policy optimisation trains two steps an iteration on the same comparisons.

[1] Y. Zhang, D. Yu, T. Ge, L. Song, et al., "Improving LLM General Preference Alignment via Optimistic Online Mirror
    Descent", 2025, arXiv:2502.16852.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import Pairing, PairwiseModule, policy_and
from lit_align.anchors.optimistic import Optimistic
from lit_align.judges.base import Judge
from lit_align.losses.ipo import ipo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class ONPO(PairwiseModule):
    r"""Runs two-step optimistic mirror descent without regularisation: the policy plays one step ahead of its base [1].

    .. math::
        \pi'_{t+1} \propto \pi'_t \exp(\eta\, P(y \succ \pi_t)), \quad
        \pi_{t+1} \propto \pi'_{t+1} \exp(\eta\, P(y \succ \pi_t))

    Two fits on the same comparisons of pi_t's responses follow one another: the next base, then the next policy. The
    second regresses on twice the target against the *old* base, which is the same as once the target against the new
    one (the two steps have the same win rates), and needs no scoring between the fits. On intransitive preferences the
    last iterate goes to the Nash equilibrium, where multiplicative weights circle.

    Args:
        eta: Step size, > 0, nats per unit of win rate; [1] uses 1/eta = 0.01.
        pairing: ``random`` or ``all``: the minimiser needs both responses drawn from pi_t.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"anchor"})
    phases: ClassVar[int] = 2
    takes_pairs: ClassVar[bool] = False
    anchor: Optimistic

    def __init__(
        self, policy: Policy, judge: Judge | None = None, eta: float = 100.0, pairing: Pairing = "random", **kwargs: Any
    ) -> None:
        if eta <= 0:
            raise ValueError(f"model.eta must be > 0, got {eta}")
        super().__init__(policy, judge, pairing, anchor=Optimistic(), **kwargs)
        self.eta = eta

    @override
    def begin_phase(self, phase: int) -> None:
        """Take the first fit, which is done, as the next base."""
        super().begin_phase(phase)
        self.anchor.step(self.policy)

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        steps = rollouts.phase + 1
        logps = policy_and(rollouts.anchor_logps, rollouts, pairs)
        return ipo(*logps, tau=1 / (self.eta * steps), preference=pairs.preference)
