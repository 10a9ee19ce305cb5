"""The anchor of accelerated preference optimisation moves the iterate on by Nesterov momentum.

[1] J. He, H. Yuan, Q. Gu, "Accelerated Preference Optimization for Large Language Model Alignment", 2024,
    arXiv:2410.06293, Algorithm 1 and eq. (3.6).
"""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from typing_extensions import override

from lit_align.anchors.base import Anchor, Snapshot
from lit_align.models.loading.frozen_update import Factors, combine
from lit_align.models.policy import Policy
from lit_align.models.sharding.gather import piece, trainable

log = logging.getLogger(__name__)


class Extrapolated(Anchor):
    r"""Moves the iterate on: :math:`\theta_t = \hat\theta_t + \alpha (\hat\theta_t - \hat\theta_{t-1})` is pi_t [1].

    The momentum is taken between *iterates*, never from the last extrapolated point, and :math:`\hat\theta_{-1} =
    \hat\theta_0`. The policy itself moves: it samples from pi_t, starts from it, and is compared with it. In
    softmax-linear policies this is eq. (3.6) of [1] exactly, :math:`\pi_t \propto \hat\pi_t (\hat\pi_t /
    \hat\pi_{t-1})^\alpha`; elsewhere its log-probs are off by an error quadratic in the step.

    theta are the weights of the *network*. Low-rank adapters hold factors of an update, and adding factors does not add
    their products: there the momentum goes into a second, frozen update beside the trainable one. It is exact, and its
    rank grows by that of the adapters with every iteration, unless ``rank`` says otherwise. One copy of the trainable
    weights, or of the update, is kept.

    Args:
        alpha: Momentum in [0, 1); 0 is the previous iterate. Larger converges faster and amplifies noise.
        rank: Largest rank of the frozen update; what that leaves out, relative to the whole, is logged. None keeps all.
    """

    is_policy = True
    copies = 1
    has_frozen_update = True

    def __init__(self, alpha: float = 0.3, rank: int | None = None) -> None:
        if not 0 <= alpha < 1:
            raise ValueError(f"model.anchor.alpha must lie in [0, 1), got {alpha}")
        if rank is not None and rank < 1:
            raise ValueError(f"model.anchor.rank must be >= 1, got {rank}")
        self.alpha = alpha
        self.rank = rank
        self._iterate = Snapshot()  # the last iterate, before it was moved
        self._update: dict[str, Factors] = {}  # the same of a policy of adapters: the whole of its update
        self._moved = -1

    @torch.no_grad()
    @override
    def begin(self, policy: Policy, iteration: int) -> None:
        if iteration == self._moved:
            return
        if policy.additive:
            self._move_weights(policy)
        else:
            self._move_update(policy)
        self._moved = iteration

    @override
    def applied(self, policy: Policy) -> AbstractContextManager[str]:
        del policy
        return nullcontext("policy")

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._iterate.state(), "update": self._update, "moved": self._moved}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iterate.load(state["weights"])
        self._update, self._moved = state["update"], state["moved"]

    def _move_weights(self, policy: Policy) -> None:
        older = self._iterate.on(policy) if self._moved >= 0 else {}
        self._iterate.take(policy)
        for name, parameter in trainable(policy):
            if name in older:
                mine = piece(parameter)
                mine.add_(mine - older[name], alpha=self.alpha)

    def _move_update(self, policy: Policy) -> None:
        """Set the frozen update to frozen + alpha (frozen + trainable - the whole update of the iterate before)."""
        with policy.gathered():
            trained = policy.factors()
        frozen = policy.frozen_update()
        whole = {name: [(1.0, trained[name]), *([(1.0, frozen[name])] if frozen else [])] for name in trained}
        if self._update:
            older = {name: (b.to(trained[name][0]), a.to(trained[name][0])) for name, (b, a) in self._update.items()}
            moved = {
                name: combine(
                    [
                        *([(1.0, frozen[name])] if frozen else []),
                        *((self.alpha * coefficient, pair) for coefficient, pair in terms),
                        (-self.alpha, older[name]),
                    ],
                    self.rank,
                )
                for name, terms in whole.items()
            }
            policy.set_frozen_update({name: pair for name, (pair, _) in moved.items()})
            self._say([error for _, error in moved.values()])
        self._update = {name: combine(terms)[0] for name, terms in whole.items()}

    def _say(self, errors: list[float]) -> None:
        if self.rank is not None:
            log.warning(
                "momentum kept to rank %d: %.2g of its norm left out on average, %.2g at most",
                self.rank,
                sum(errors) / len(errors),
                max(errors),
            )
