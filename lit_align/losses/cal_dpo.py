r"""Calibrated DPO (Cal-DPO): each log-ratio is drawn to a value of its own, and not their difference alone.

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
    r"""Logistic loss of the margin, and squared distances of the two log-ratios from where they should be.

    .. math::
        L = -\log\sigma(u_w - u_l) + c \left[\left(u_w - \tfrac{1}{2\beta}\right)^2 + \left(u_l +
        \tfrac{1}{2\beta}\right)^2\right]

    Source: the loss of [1] at c = 1, in log-ratios u without a factor beta. The authors' code has c = 1/2, and takes
    the mean of the squares over a batch.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        beta: KL strength in units of reward, > 0; the log-ratios are drawn to 1/(2 beta) and -1/(2 beta).
        calibration: c, >= 0; larger holds the log-ratios closer to these values, 0 is DPO at beta 1.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label.

    Returns:
        Loss of each pair, > 0: nats, and squared nats; log 2 + c / (2 beta^2) where the policy is the reference.

    Raises:
        ValueError: ``beta`` is not positive, ``calibration`` is negative, or a number ``preference`` is outside [0, 1].
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
