"""The anchor of a plain proximal-point iteration: the previous iterate."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from lit_align.models import Policy
from lit_align.types import Responses


class Anchor(ABC):
    """The rule for pi_t, the iterate that a proximal step starts from."""

    @abstractmethod
    def begin(self, policy: Policy, iteration: int) -> None:
        """Move to this iteration's anchor; called before anything is sampled, and idempotent."""

    @abstractmethod
    def logps(self, policy: Policy, responses: Responses) -> Float[Tensor, "batch group length"]:
        """Log pi_t of every response token, called while collecting."""


class Previous(Anchor):
    """pi_t is the policy as the iteration begins.

    Its log-probs are taken once, while collecting, when the policy *is* pi_t; no copy of the weights is kept.
    """

    def begin(self, policy: Policy, iteration: int) -> None:
        """Nothing moves: the policy is the anchor."""
        del policy, iteration

    def logps(self, policy: Policy, responses: Responses) -> Float[Tensor, "batch group length"]:
        """The policy's own, before the first step."""
        return policy.logps(responses, "policy")
