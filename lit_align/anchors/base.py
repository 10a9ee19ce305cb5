"""What an anchor is: the rule for pi_t, the iterate that a proximal step starts from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lit_align.models import Policy
from lit_align.types import Responses


class Anchor(ABC):
    """The rule for pi_t, told once, as an iteration begins.

    The anchor moves at the *beginning* of an iteration: what is evaluated, saved and exported is the policy as training
    left it.
    """

    is_policy = False
    """Whether the policy *is* pi_t as an iteration's first step begins, so that every log-ratio to the anchor is 0."""

    @abstractmethod
    def begin(self, policy: Policy, iteration: int) -> None:
        """Move to this iteration's anchor, before anything is sampled; a second call for it does nothing."""

    @abstractmethod
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        """A context, entered while collecting, in which the policy answers as pi_t under the name it gives."""

    def logps(self, policy: Policy, responses: Responses) -> Float[Tensor, "batch group length"]:
        """Log pi_t of every response token, without gradients, called while collecting."""
        with self.applied(policy) as source:
            return policy.logps(responses, source)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold for the run to go on: tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        del state


class Snapshot:
    """One copy of the trainable weights.

    Attributes:
        weights: Name -> tensor; empty before the first :meth:`take`.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def take(self, policy: Policy) -> None:
        """Copy the policy's trainable weights."""
        self.weights = {name: parameter.detach().clone() for name, parameter in trainable(policy)}

    @contextmanager
    def applied(self, policy: Policy) -> Iterator[str]:
        """Exchange the policy's weights for the copy, and back: nothing is copied."""
        self._exchange(policy)
        try:
            yield "policy"
        finally:
            self._exchange(policy)

    def on(self, policy: Policy) -> dict[str, Tensor]:
        """The copy, on the device of the policy (a checkpoint is read on the CPU)."""
        self.weights = {name: self.weights[name].to(parameter.device) for name, parameter in trainable(policy)}
        return self.weights

    def _exchange(self, policy: Policy) -> None:
        weights = self.on(policy)
        for name, parameter in trainable(policy):
            parameter.data, weights[name] = weights[name], parameter.data


def trainable(policy: Policy) -> list[tuple[str, Any]]:
    """Names and parameters of what training changes."""
    return [(name, parameter) for name, parameter in policy.named_parameters() if parameter.requires_grad]
