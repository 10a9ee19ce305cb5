"""Regularised preference optimisation (RPO) adds a supervised loss on the chosen response to DPO.

[1] Z. Liu, M. Lu, S. Zhang, B. Liu, H. Guo, Y. Yang, J. Blanchet, Z. Wang, "Provably Mitigating Overoptimization in
    RLHF: Your SFT Loss is Implicitly an Adversarial Regularizer", NeurIPS 2024, arXiv:2405.16436.
"""

from jaxtyping import Float
from torch import Tensor

from lit_align.losses.dpo import dpo
from lit_align.losses.margins import Lengths, Pair, label_mean


def rpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    beta: float,
    eta: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return DPO plus the negative log-likelihood of the chosen response, a token *sum*.

    .. math::
        L = -\log\sigma(\beta h) - \eta \beta \log\pi_\theta(y_w)

    Source: the objective of [1], as in the authors' code. ``eta`` >= 0 is the weight of the supervised loss in units of
    beta: larger keeps the chosen response likely, and 0 is DPO. The mean over the label imitates its winner. The loss
    is >= 0.
    """
    _check(eta)
    logps = policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    nll = label_mean(-policy_chosen_logps, -policy_rejected_logps, preference)
    return dpo(*logps, beta=beta, preference=preference) + eta * beta * nll


def rpo_mean(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    reference_chosen_logps: Pair,
    reference_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    beta: float,
    eta: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return DPO plus the *mean* negative log-likelihood of the chosen response's tokens.

    .. math::
        L = -\log\sigma(\beta h) - \frac{\eta}{|y_w|} \log\pi_\theta(y_w)

    Source: the "average" variant of the appendix of [1], with beta outside the supervised term, as in ports of it; the
    margin stays a sum. ``eta`` >= 0 is per nat and token here.
    """
    _check(eta)
    logps = policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    nll = label_mean(-policy_chosen_logps / chosen_lengths, -policy_rejected_logps / rejected_lengths, preference)
    return dpo(*logps, beta=beta, preference=preference) + eta * nll


def _check(eta: float) -> None:
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
