"""The anchor of optimistic mirror descent: a base iterate that the policy always steps out from, and is not.

[1] Y. Zhang, D. Yu, T. Ge, L. Song, et al., "Improving LLM General Preference Alignment via Optimistic Online Mirror
    Descent", 2025, arXiv:2502.16852.
"""

from contextlib import AbstractContextManager
from typing import Any

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.policy import Policy


class Optimistic(Anchor):
    """pi'_t, which an algorithm of two fits sets between them: :meth:`step` makes the policy the next one.

    One copy of the trainable weights is kept, and the next one once there is one.
    """

    copies = 2

    def __init__(self) -> None:
        self._base, self._next = Snapshot(), Snapshot()
        self._moved = -1

    def begin(self, policy: Policy, iteration: int) -> None:
        """The base of the last iteration's first fit; the policy itself at the start."""
        if iteration == self._moved:
            return
        if self._moved < 0:
            self._base.take(policy)
        else:
            self._base, self._next = self._next, Snapshot()
        self._moved = iteration

    def step(self, policy: Policy) -> None:
        """The policy has been fitted to the next base."""
        self._next.take(policy)

    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        """The policy with the weights of the base."""
        return self._base.applied(policy)

    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        """The base whole on every rank."""
        return self._base.gathered(policy)

    def state_dict(self) -> dict[str, Any]:
        """Both bases and when the anchor moved."""
        return {"base": self._base.state(), "next": self._next.state(), "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up both."""
        self._base.load(state["base"])
        self._next.load(state["next"])
        self._moved = state["moved"]
