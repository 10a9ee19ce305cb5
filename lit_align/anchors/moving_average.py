"""The anchor of J-BOND: an exponential moving average of the policy's weights.

[1] P. G. Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, arXiv:2407.14622, Algorithm 2.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import piece, trainable


class MovingAverage(Anchor):
    r"""pi_t has weights that follow the policy's, once an iteration: a share of the way towards them.

    .. math::
        \theta_a \leftarrow (1 - r) \theta_a + r \theta

    [1] moves it after every optimiser step: use iterations of one step. Of adapters the factors are averaged, as in
    most code, not their product. One copy of the trainable weights is kept.

    Args:
        rate: r in (0, 1]; larger follows faster, 1 is the previous iterate.

    Raises:
        ValueError: ``rate`` is outside (0, 1].
    """

    copies = 1

    def __init__(self, rate: float = 0.02) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"anchor.rate must lie in (0, 1], got {rate}")
        self.rate = rate
        self._copy = Snapshot()
        self._moved = -1

    @torch.no_grad()
    def begin(self, policy: Policy, iteration: int) -> None:
        """A step towards the policy; the first anchor is the policy itself."""
        if iteration == self._moved:
            return
        if self._moved < 0:
            self._copy.take(policy)
        else:
            weights = self._copy.on(policy)
            for name, parameter in trainable(policy):
                weights[name].lerp_(piece(parameter), self.rate)
        self._moved = iteration

    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        """The policy with the averaged weights."""
        return self._copy.applied(policy)

    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        """The average whole on every rank."""
        return self._copy.gathered(policy)

    def state_dict(self) -> dict[str, Any]:
        """The average and when it moved."""
        return {"weights": self._copy.state(), "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an average."""
        self._copy.load(state["weights"])
        self._moved = state["moved"]
