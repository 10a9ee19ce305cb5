"""Calibrated direct preference optimisation trains with :mod:`lit_align.losses.cal_dpo`, which names [1]."""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.cal_dpo import cal_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class CalDPO(PairwiseModule):
    """Trains Cal-DPO [1] on pairs of the policy's own responses, towards the fixed reference.

    The likelihood of the chosen response is raised, where DPO may lower both. [1] trains on written pairs.

    Args:
        beta: KL strength in units of reward, > 0; log-ratios are drawn to 1/(2 beta) and -1/(2 beta). The authors' code
            uses 0.002 for Zephyr 7B.
        calibration: Weight of the squared distances, >= 0; [1] has 1, the authors' code 1/2. 0 is DPO at beta 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"reference"})

    def __init__(
        self, policy: Policy, judge: Judge | None = None, beta: float = 0.002, calibration: float = 1.0, **kwargs: Any
    ) -> None:
        if beta <= 0:
            raise ValueError(f"model.beta must be > 0, got {beta}")
        if calibration < 0:
            raise ValueError(f"model.calibration must be >= 0, got {calibration}")
        super().__init__(policy, judge, **kwargs)
        self.beta = beta
        self.calibration = calibration

    @override
    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return cal_dpo(*logps, beta=self.beta, calibration=self.calibration, preference=pairs.preference)
