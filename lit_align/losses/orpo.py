"""Odds ratio preference optimisation (ORPO) learns the chosen response, and prefers it by the odds of its tokens.

[1] J. Hong, N. Lee, J. Thorne, "ORPO: Monolithic Preference Optimization without Reference Model", EMNLP 2024,
    arXiv:2403.07691.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lit_align.losses.margins import Lengths, Pair, label_mean


def orpo(
    policy_chosen_logps: Pair,
    policy_rejected_logps: Pair,
    *,
    chosen_lengths: Lengths,
    rejected_lengths: Lengths,
    odds_weight: float,
    preference: Float[Tensor, "*batch"] | float = 1.0,
) -> Pair:
    r"""Return the NLL of the chosen response per token, and the logistic loss of the log odds ratio.

    .. math::
        L = -m_w + \lambda [-\log\sigma(\mathrm{logit}\, e^{m_w} - \mathrm{logit}\, e^{m_l})], \quad
        m = \frac{\log\pi_\theta(y)}{|y|}

    Source: eqs. (6) and (7) of [1], where the likelihood of a response is the geometric mean of its tokens'. The
    likelihood term is of the response alone and per pair; the authors' code takes the prompt's tokens as well, in the
    mean over a batch. ``odds_weight`` >= 0 is lambda: larger prefers more strongly, and 0 is supervised learning of the
    chosen response. The loss is in nats, >= 0.
    """
    if not odds_weight >= 0:
        raise ValueError(f"odds_weight must be >= 0, got {odds_weight}")
    chosen, rejected = policy_chosen_logps / chosen_lengths, policy_rejected_logps / rejected_lengths
    odds_ratio = log_odds(chosen) - log_odds(rejected)
    return label_mean(
        odds_weight * softplus(-odds_ratio) - chosen, odds_weight * softplus(odds_ratio) - rejected, preference
    )


def log_odds(logp: Pair) -> Pair:
    r"""Return the log odds of a probability, :math:`\log p - \log(1 - p)`: finite, increasing in p, 0 at p = ½.

    ``logp`` is log p <= 0, nats; 0 is taken for the largest probability below 1 that the dtype tells apart.
    """
    certain = logp.clamp(max=-torch.finfo(logp.dtype).tiny)
    rare = certain < -math.log(2)
    # Each form of log(1 - p) is exact where the other loses digits, and sees a harmless value elsewhere.
    likely = torch.log(-torch.expm1(certain.masked_fill(rare, -1.0)))
    unlikely = torch.log1p(-torch.exp(certain.masked_fill(~rare, -1.0)))
    return certain - torch.where(rare, unlikely, likely)
