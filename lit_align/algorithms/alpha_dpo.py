"""alpha-DPO: SimPO with a margin that adapts to each pair.

[1] J. Wu et al., "alpha-DPO: Adaptive Reward Margin is What Direct Preference Optimization Needs", 2024,
    arXiv:2410.10148.
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import PAIRINGS, Pairs, gather
from lit_align.algorithms.pairwise import PairwiseModule, pair_lengths, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.alpha_dpo import alpha_dpo
from lit_align.losses.margins import mean_margin
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class AlphaDPO(PairwiseModule):
    r"""alpha-DPO [1] on pairs of the policy's own responses.

    .. math::
        \min_\pi E\Big[-\log\sigma\Big(\beta (d - \mathrm{sg}[\alpha (M - \mu)/\sigma]) - \gamma\Big)\Big]

    d is SimPO's difference of mean log-probs, M that of mean log-ratios to the reference. mu and sigma are the mean and
    the standard deviation of M over all pairs of the iteration, under the policy as it was while collecting, so that
    splitting a step into minibatches or over devices changes nothing; the authors' code has running averages over
    minibatches, begun at 0, instead. In the first iteration the policy *is* the reference, M has no spread, and the
    loss is SimPO's: the method needs a second one.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: Reward per nat and token, > 0; larger saturates at smaller differences. [1] uses 2.5 to 10.
        gamma: Target margin, >= 0, in units of reward; beta times the ``gamma_beta_ratio`` of the authors' code.
        alpha: Nats per token that the target moves by for one standard deviation of M, >= 0; 0 is SimPO. [1] uses 0.05
            to 0.2.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`; ``pairing`` is ``best_worst`` by default,
            the recipe of [1] for responses ranked by a reward model, a heuristic.

    Raises:
        ValueError: beta <= 0, gamma < 0, or alpha < 0.
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

    def prepare(self, rollouts: Rollouts) -> Rollouts:
        """Mean and standard deviation of M over the pairs of the iteration and their labels."""
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
        # A label that turns the pair turns the margin too: its mean over labels is (2p - 1) M, that of its square M^2.
        self.margin_mean = float((share * (2 * pairs.preference - 1) * margins).sum())
        variance = float((share * margins**2).sum()) - self.margin_mean**2
        # Where policy and reference are one, what margins there are come from rounding.
        self.margin_std = max(variance, 0.0) ** 0.5 if int(self.iteration) else 0.0
        return rollouts

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Logistic loss with the adaptive margin."""
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
