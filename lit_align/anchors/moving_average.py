"""The anchor of J-BOND is an exponential moving average of the policy's weights.

[1] P. G. Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, arXiv:2407.14622, Algorithm 2.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from typing_extensions import override

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import piece, trainable


class MovingAverage(Anchor):
    r"""Gives pi_t weights that follow the policy's, once an iteration: a share of the way towards them.

    .. math::
        \theta_a \leftarrow (1 - r) \theta_a + r \theta

    [1] moves it after every optimiser step: use iterations of one step. Of adapters the factors are averaged, as in
    most code, not their product. One copy of the trainable weights is kept.

    Args:
        rate: r in (0, 1]; larger follows faster, 1 is the previous iterate.
    """

    copies = 1

    def __init__(self, rate: float = 0.02) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"model.anchor.rate must lie in (0, 1], got {rate}")
        self.rate = rate
        self._copy = Snapshot()
        self._moved = -1

    @torch.no_grad()
    @override
    def begin(self, policy: Policy, iteration: int) -> None:
        if iteration == self._moved:
            return
        if self._moved < 0:
            self._copy.take(policy)
        else:
            weights = self._copy.on(policy)
            for name, parameter in trainable(policy):
                weights[name].lerp_(piece(parameter), self.rate)
        self._moved = iteration

    @override
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        return self._copy.applied(policy)

    @override
    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        return self._copy.gathered(policy)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._copy.state(), "moved": self._moved}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._copy.load(state["weights"])
        self._moved = state["moved"]
