"""Calibrated direct preference optimisation.

[1] T. Xiao, Y. Yuan, H. Zhu, M. Li, V. G. Honavar, "Cal-DPO: Calibrated Direct Preference Optimization for Language
    Model Alignment", NeurIPS 2024, arXiv:2412.14516.
"""

from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.pairings import Pairs
from lit_align.algorithms.pairwise import PairwiseModule, policy_and
from lit_align.judges.base import Judge
from lit_align.losses.cal_dpo import cal_dpo
from lit_align.models.policy import Policy
from lit_align.types import Rollouts


class CalDPO(PairwiseModule):
    r"""Cal-DPO [1] on pairs of the policy's own responses, towards the fixed reference.

    .. math::
        \min_\pi E\left[-\log\sigma(u_w - u_l) + c \left(u_w - \tfrac{1}{2\beta}\right)^2 + c \left(u_l +
        \tfrac{1}{2\beta}\right)^2\right], \quad u(y) = \log\frac{\pi(y)}{\pi_{ref}(y)}

    The likelihood of the chosen response is raised, where DPO may lower both. [1] trains on written pairs.

    Args:
        policy: What is aligned, with its reference.
        judge: Says which of two responses is better; none where the data are pairs that say so themselves.
        beta: KL strength in units of reward, > 0; log-ratios are drawn to 1/(2 beta) and -1/(2 beta). The authors' code
            uses 0.002 for Zephyr 7B.
        calibration: c, >= 0; [1] has 1, the authors' code 1/2. 0 is DPO at beta 1.
        kwargs: As for :class:`~lit_align.algorithms.pairwise.PairwiseModule`.

    Raises:
        ValueError: beta <= 0, or calibration < 0.
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

    def pair_losses(self, rollouts: Rollouts, pairs: Pairs) -> Float[Tensor, "batch pairs"]:
        """Cal-DPO against the reference."""
        logps = policy_and(rollouts.reference_logps, rollouts, pairs)
        return cal_dpo(*logps, beta=self.beta, calibration=self.calibration, preference=pairs.preference)
