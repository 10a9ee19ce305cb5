"""alpha-DPO is SimPO with a margin that adapts to each pair; :mod:`lit_align.losses.alpha_dpo` names [1]."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import PAIRINGS, Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.alpha_dpo import alpha_dpo
from lit_align.losses.margins import mean_margin
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class AlphaDPO(PairwiseModule):
    """Trains alpha-DPO [1] on pairs of the policy's own responses.

    The mean and the standard deviation of the margin M are those over all pairs of the iteration, under the policy as
    it was while collecting, so that splitting a step into minibatches or over devices changes nothing; the authors'
    code has running averages over minibatches, begun at 0, instead. In the first iteration the policy *is* the
    reference, M has no spread, and the loss is SimPO's: the method needs a second one. ``pairing: best_worst`` is the
    recipe of [1] for responses ranked by a reward model, a heuristic.

    Args:
        beta: Reward per nat and token, > 0; larger saturates at smaller differences. [1] uses 2.5 to 10.
        gamma: Target margin, >= 0, in units of reward; beta times the ``gamma_beta_ratio`` of the authors' code.
        alpha: Nats per token that the target moves by for one standard deviation of M, >= 0; 0 is SimPO. [1] uses 0.05
            to 0.2.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"current", "reference"})

    def __init__(
        self,
        policy: Policy,
        judge: Judge | None = None,
        beta: float = 2.5,
        gamma: float = 1.5,
        alpha: float = 0.2,
        **kwargs: Any,
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        for name, value in (("gamma", gamma), ("alpha", alpha)):
            if value < 0:
                raise ValueError(f"model.{name} must be >= 0, got {value}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.gamma = gamma
        self.alpha = alpha
        self.margin_mean = 0.0
        self.margin_std = 0.0

    @override
    def prepare(self, rollouts: Rollouts) -> Rollouts:
        pairs = PAIRINGS[self.pairing](rollouts)
        current, reference = rollouts.current_logps, rollouts.reference_logps
        margins = mean_margin(
            gather(current, pairs.first),
            gather(current, pairs.second),
            gather(reference, pairs.first),
            gather(reference, pairs.second),
            **pair_lengths(rollouts, pairs),
        ).double()
        share = pairs.weights.double() / pairs.weights.double().sum().clamp(min=torch.finfo(torch.float64).tiny)
        # A label that turns the pair turns the margin: over labels its mean is (2p - 1) M, and that of its square M^2.
        self.margin_mean = float((share * (2 * pairs.preference - 1) * margins).sum())
        variance = float((share * margins**2).sum()) - self.margin_mean**2
        # As long as the policy is the reference, margins come from rounding alone.
        self.margin_std = max(variance, 0.0) ** 0.5 if int(self.iteration) else 0.0
        return rollouts

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        return alpha_dpo(
            *policy_and(rollouts.reference_logps, rollouts, pairs),
            **pair_lengths(rollouts, pairs),
            beta=self.beta,
            gamma=self.gamma,
            alpha=self.alpha if self.margin_std else 0.0,
            margin_mean=self.margin_mean,
            margin_std=self.margin_std or 1.0,
            preference=pairs.preference,
        )
