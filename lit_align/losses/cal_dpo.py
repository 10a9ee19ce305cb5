"""Calibrated DPO (Cal-DPO) draws each log-ratio to a value of its own, and not their difference alone.

[1] T. Xiao, Y. Yuan, H. Zhu, M. Li, V. G. Honavar, "Cal-DPO: Calibrated Direct Preference Optimization for Language
    Model Alignment", NeurIPS 2024, arXiv:2412.14516.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Pair, label_mean


def cal_dpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    calibration: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the logistic loss of the margin, and squared distances of the two log-ratios from where they should be.

    .. math::
        L = -\log\sigma(u_w - u_l) + c \left[\left(u_w - \tfrac{1}{2\beta}\right)^2 + \left(u_l +
        \tfrac{1}{2\beta}\right)^2\right]

    Source: the loss of [1] at c = 1, in log-ratios u without a factor beta; the authors' code has c = 1/2, and takes
    the mean of the squares over a batch. ``calibration`` >= 0 is c: larger holds the log-ratios closer to 1/(2 beta)
    and -1/(2 beta), and 0 is DPO at beta 1. The loss is > 0, and log 2 + c / (2 beta^2) where the policy is the
    reference.
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not calibration >= 0:
        raise ValueError(f"calibration must be >= 0, got {calibration}")
    target = 1 / (2 * beta)

    def loss(won: Pair, lost: Pair) -> Pair:
        return softplus(lost - won) + calibration * ((won - target) ** 2 + (lost + target) ** 2)

    chosen, rejected = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    return label_mean(loss(chosen, rejected), loss(rejected, chosen), preference)
