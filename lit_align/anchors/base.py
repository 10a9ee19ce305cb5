"""An anchor is the rule for pi_t, the iterate that a proximal step starts from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import full_state, piece, pieces_of, trainable
from lit_align.types import Responses


class Anchor(ABC):
    """Makes pi_t, once, as an iteration begins: what is evaluated, saved and exported is the policy itself."""

    is_policy = False
    """Says whether the policy *is* pi_t as an iteration's first step begins: log-ratios to the anchor are then 0."""

    copies: int = 0
    """Says how many copies of the trainable weights are kept."""

    has_frozen_update = False
    """Says whether updates of adapters go into a frozen one beside them, whose rank grows with every iteration."""

    @abstractmethod
    def begin(self, policy: Policy, iteration: int) -> None:
        """Move to this iteration's anchor, before anything is sampled; a second call for it does nothing."""

    @abstractmethod
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        """Return a context, entered while collecting, in which the policy answers as pi_t under the name it gives."""

    def gathered(self, policy: Policy) -> AbstractContextManager[None]:
        """Return a context around a collection, entered before the policy's own, in which pi_t is whole on every rank.

        All ranks enter it together; what happens inside asks nothing of the others.
        """
        del policy
        return nullcontext()

    def logps(self, policy: Policy, responses: Responses) -> Float[Tensor, "batch group length"]:
        """Return log pi_t of every response token, without gradients; it is called while collecting."""
        with self.applied(policy) as source:
            return policy.logps(responses, source)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold for the run to go on: tensors and numbers."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        del state


class Snapshot:
    """Copies the trainable weights once; of sharded ones, each rank copies the piece that it keeps.

    Attributes:
        weights: Name -> this rank's piece; empty before the first :meth:`take`.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}
        self._loaded: dict[str, Tensor] = {}  # whole weights of a checkpoint, until a policy tells how they are cut
        self._whole: dict[str, Tensor] = {}  # the whole copy, while it is gathered
        self._policy: Policy | None = None

    def take(self, policy: Policy) -> None:
        """Copy the policy's trainable weights."""
        self._policy, self._loaded = policy, {}
        self.weights = {name: piece(parameter).clone() for name, parameter in trainable(policy)}

    @contextmanager
    def gathered(self, policy: Policy) -> Iterator[None]:
        """Make the copy whole on every rank, which all enter together; weights that are not sharded are not copied."""
        if policy.sharded:
            self.on(policy)
            with self._in_place_of(policy, self.weights), policy.gathered():
                self._whole = {name: parameter.detach().clone() for name, parameter in trainable(policy)}
        try:
            yield
        finally:
            self._whole = {}

    @contextmanager
    def applied(self, policy: Policy) -> Iterator[str]:
        """Exchange the policy's weights for the copy, and back."""
        with self._in_place_of(policy, self._whole or self.on(policy)):
            yield "policy"

    def on(self, policy: Policy) -> dict[str, Tensor]:
        """Return the copy, cut as the policy is and on its device; checkpoints hold whole weights, read on the CPU."""
        self._policy = policy
        if self._loaded:
            self.weights, self._loaded = pieces_of(self._loaded, policy), {}
        return self.weights

    def state(self) -> dict[str, Tensor]:
        """Return the whole copy, on rank 0 alone where it is sharded; all ranks ask for it together."""
        if self._policy is None or not self._policy.sharded or not self.weights:
            return self._loaded or self.weights
        with self._in_place_of(self._policy, self.weights):
            return full_state(self._policy, frozen=False)

    def load(self, weights: dict[str, Tensor]) -> None:
        """Take up what :meth:`state` gave rank 0."""
        self._loaded = weights

    @contextmanager
    def _in_place_of(self, policy: Policy, weights: dict[str, Tensor]) -> Iterator[None]:
        _exchange(policy, weights)
        try:
            yield
        finally:
            _exchange(policy, weights)


@torch.no_grad()
def _exchange(policy: Policy, weights: dict[str, Tensor]) -> None:
    """Exchange in place, for the weights of a sharded policy are views that FSDP keeps."""
    for name, parameter in trainable(policy):
        ours, theirs = weights[name], piece(parameter)
        theirs_before = theirs.clone()
        theirs.copy_(ours)
        ours.copy_(theirs_before)
