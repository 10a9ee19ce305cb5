"""The anchor of accelerated preference optimisation: the iterate, moved on by Nesterov momentum.

[1] J. He, H. Yuan, Q. Gu, "Accelerated Preference Optimization for Large Language Model Alignment", 2024,
    arXiv:2410.06293, Algorithm 1 and eq. (3.6).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lit_align.anchors.base import Anchor, Snapshot, trainable
from lit_align.models import Policy


class Extrapolated(Anchor):
    r"""pi_t is the iterate moved on: :math:`\theta_t = \hat\theta_t + \alpha (\hat\theta_t - \hat\theta_{t-1})` [1].

    The momentum is taken between *iterates*, never from the last extrapolated point, and :math:`\hat\theta_{-1} =
    \hat\theta_0`. The policy itself moves: it samples from pi_t, starts from it, and is compared with it. In
    softmax-linear policies this is eq. (3.6) of [1] exactly, :math:`\pi_t \propto \hat\pi_t (\hat\pi_t /
    \hat\pi_{t-1})^\alpha`; elsewhere it differs by the square of the step. One copy of the trainable weights is kept.

    Args:
        alpha: Momentum in [0, 1); 0 is the previous iterate. Larger converges faster and amplifies noise.

    Raises:
        ValueError: ``alpha`` is outside [0, 1).
    """

    is_policy = True

    def __init__(self, alpha: float = 0.3) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(f"anchor.alpha must lie in [0, 1), got {alpha}")
        self.alpha = alpha
        self._iterate = Snapshot()  # the last iterate, before it was moved
        self._moved = -1

    def check(self, policy: Policy) -> None:
        """Adding to the factors of a LoRA adapter does not add to their product.

        Raises:
            ValueError: The policy's trainable weights are such factors.
        """
        if not policy.additive:
            raise ValueError(
                "the Extrapolated anchor adds weights, and adding LoRA factors does not add their product: train full "
                "weights (model.policy.lora: null)"
            )

    @torch.no_grad()
    def begin(self, policy: Policy, iteration: int) -> None:
        """Move the policy on, and remember where it was."""
        if iteration == self._moved:
            return
        older = self._iterate.on(policy) if self._moved >= 0 else {}
        self._iterate.take(policy)
        for name, parameter in trainable(policy):
            if name in older:
                parameter.add_(parameter - older[name], alpha=self.alpha)
        self._moved = iteration

    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        """The policy as it is while collecting."""
        del policy
        return nullcontext("policy")

    def state_dict(self) -> dict[str, Any]:
        """The last iterate and when the policy moved."""
        return {"weights": self._iterate.weights, "moved": self._moved}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up an iterate."""
        self._iterate.weights, self._moved = state["weights"], state["moved"]
