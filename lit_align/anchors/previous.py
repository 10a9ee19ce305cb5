"""Some anchors stay where the policy once was: the previous iterate, an earlier one, or the initial policy."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from typing_extensions import override

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.policy import Policy


class Previous(Anchor):
    """Takes for pi_t the policy as the iteration begins, or as it was up to ``every`` - 1 iterations earlier.

    With ``every=1`` its log-probs are taken while collecting, when the policy *is* pi_t, and no copy of the weights is
    kept; otherwise one copy of the trainable weights is.

    Args:
        every: Iterations between two moves, >= 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"model.anchor.every must be >= 1, got {every}")
        self.every = every
        self.is_policy = every == 1
        self._copy = Snapshot()
        self._taken = -1

    @property
    def copies(self) -> int:  # type: ignore[override]
        """Return one, unless the policy itself is the anchor; no attribute, for those say how rollouts were scored."""
        return 0 if self.is_policy else 1

    @override
    def begin(self, policy: Policy, iteration: int) -> None:
        if self.is_policy or iteration == self._taken:
            return
        if iteration % self.every == 0 or self._taken < 0:
            self._copy.take(policy)
            self._taken = iteration

    @override
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        return nullcontext("policy") if self.is_policy else self._copy.applied(policy)

    @override
    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        return nullcontext() if self.is_policy else self._copy.gathered(policy)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._copy.state(), "taken": self._taken}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._copy.load(state["weights"])
        self._taken = state["taken"]


class Initial(Anchor):
    """Keeps pi_t at the reference throughout: the one-shot, offline form of a method."""

    @override
    def begin(self, policy: Policy, iteration: int) -> None:
        del policy, iteration

    @override
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        del policy
        return nullcontext("reference")
