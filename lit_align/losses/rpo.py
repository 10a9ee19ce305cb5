r"""Regularised preference optimisation (RPO): DPO and a supervised loss on the chosen response.

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
    r"""DPO plus the negative log-likelihood of the chosen response, a token *sum*.

    .. math::
        L = -\log\sigma(\beta h) - \eta \beta \log\pi_\theta(y_w)

    Source: the objective of [1], as in the authors' code.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref (or of the anchor) of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        beta: KL strength, > 0, reward per nat; larger keeps the policy closer to the reference.
        eta: Weight of the supervised loss, >= 0, in units of beta; 0 is DPO. Larger keeps the chosen response likely.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label, whose winner is imitated.

    Returns:
        Loss of each pair, >= 0; log 2 - eta beta log pi(chosen) where the policy is the reference and the label sure.

    Raises:
        ValueError: ``beta`` is not positive, ``eta`` is negative, or a number ``preference`` is outside [0, 1].
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
    r"""DPO plus the *mean* negative log-likelihood of the chosen response's tokens.

    .. math::
        L = -\log\sigma(\beta h) - \frac{\eta}{|y_w|} \log\pi_\theta(y_w)

    Source: the "average" variant of the appendix of [1], with beta outside the supervised term, as in ports of it; the
    margin stays a sum.

    Args:
        policy_chosen_logps: log pi_theta of the chosen response, sequence sum, nats; carries the gradient.
        policy_rejected_logps: The same of the rejected response.
        reference_chosen_logps: log pi_ref (or of the anchor) of the chosen response, sequence sum, nats.
        reference_rejected_logps: The same of the rejected response.
        chosen_lengths: Tokens of the chosen response, >= 1, end of sequence included.
        rejected_lengths: The same of the rejected response.
        beta: KL strength, > 0, reward per nat; larger keeps the policy closer to the reference.
        eta: Weight of the supervised loss, >= 0, per nat and token; 0 is DPO.
        preference: P(chosen beats rejected) in [0, 1]; the loss is its mean over the label, whose winner is imitated.

    Returns:
        Loss of each pair, >= 0.

    Raises:
        ValueError: ``beta`` is not positive, ``eta`` is negative, or a number ``preference`` is outside [0, 1].
    """
    _check(eta)
    logps = policy_chosen_logps, policy_rejected_logps, reference_chosen_logps, reference_rejected_logps
    nll = label_mean(-policy_chosen_logps / chosen_lengths, -policy_rejected_logps / rejected_lengths, preference)
    return dpo(*logps, beta=beta, preference=preference) + eta * nll


def _check(eta: float) -> None:
    if not eta >= 0:
        raise ValueError(f"eta must be >= 0, got {eta}")
