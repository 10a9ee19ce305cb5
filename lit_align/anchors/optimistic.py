"""The anchor of optimistic mirror descent is a base iterate that the policy always steps out from, and is not.

[1] Y. Zhang, D. Yu, T. Ge, L. Song, et al., "Improving LLM General Preference Alignment via Optimistic Online Mirror
    Descent", 2025, arXiv:2502.16852.
"""

from contextlib import AbstractContextManager
from typing import Any

from typing_extensions import override

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.policy import Policy


class Optimistic(Anchor):
    """Keeps pi'_t, which an algorithm of two fits sets between them: :meth:`step` makes the policy the next one.

    One copy of the trainable weights is kept, and the next one once there is one.
    """

    copies = 2

    def __init__(self) -> None:
        self._base, self._next = Snapshot(), Snapshot()
        self._moved = -1

    @override
    def begin(self, policy: Policy, iteration: int) -> None:
        if iteration == self._moved:
            return
        if self._moved < 0:
            self._base.take(policy)
        else:
            self._base, self._next = self._next, Snapshot()
        self._moved = iteration

    def step(self, policy: Policy) -> None:
        """Make the policy, which has been fitted to it, the next base."""
        self._next.take(policy)

    @override
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        return self._base.applied(policy)

    @override
    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        return self._base.gathered(policy)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"base": self._base.state(), "next": self._next.state(), "moved": self._moved}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._base.load(state["base"])
        self._next.load(state["next"])
        self._moved = state["moved"]
