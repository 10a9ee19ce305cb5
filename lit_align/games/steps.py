r"""One exact outer step of each method on a finite response set is what its sampled loss has as population minimiser.

[1] T. Yang et al., "Faster WIND", AISTATS 2025, arXiv:2410.20727.
[2] Y. Wu et al., "Self-Play Preference Optimization for Language Model Alignment", ICLR 2025, arXiv:2405.00675.
[3] Y. Zhang et al., "Iterative Nash Policy Optimization", ICLR 2025, arXiv:2407.00617.
[4] R. Munos et al., "Nash Learning from Human Feedback", ICML 2024, arXiv:2312.00886.
[5] Y. Zhang et al., "Improving LLM General Preference Alignment via Optimistic Online Mirror Descent", 2025,
    arXiv:2502.16852.
[6] R. Rafailov et al., "Direct Preference Optimization", NeurIPS 2023, arXiv:2305.18290.

Everywhere :math:`w_\pi(y) = \sum_z P(y \succ z)\, \pi(z)`, ``anchor`` is pi_t, ``reference`` is pi_ref, and pi_{t+1} is
returned. All steps are geometric mixtures with a tilt: a response of probability zero under the anchor (or under a
reference that pulls) keeps it.
"""

from typing import NamedTuple

from jaxtyping import Float, Real
from torch import Tensor

from lit_align.games.checks import (
    check_distribution,
    check_not_negative,
    check_positive,
    check_preference,
    check_rewards,
)
from lit_align.games.measures import unchecked_win_rates
from lit_align.games.mixtures import geometric_mixture

Law = Float[Tensor, "*#batch Y"]
Preference = Float[Tensor, "*#batch Y Y"]
Values = Real[Tensor, "*#batch Y"]


def wind_step(anchor: Law, reference: Law, preference: Preference, *, beta: float, eta: float) -> Law:
    r"""Take one exact step of win-rate dominance (WIND).

    .. math::
        \pi_{t+1} \propto \pi_t^{1/(1+\beta\eta)}\, \pi_{ref}^{\beta\eta/(1+\beta\eta)}
            \exp\big(\tfrac{\eta}{1+\beta\eta} w_{\pi_t}\big)
            = \arg\max_\pi \langle \pi, w_{\pi_t} \rangle - \beta KL(\pi \| \pi_{ref}) - \tfrac1\eta KL(\pi \| \pi_t)

    ``beta`` >= 0 is the KL strength towards the reference, in win-rate units, and 0 is :func:`sppo_step`; ``eta`` > 0
    is the step size, and larger moves further from the anchor.

    Source: Algorithm 2 of [1]; the closed form is derived. For eta <= 4 beta, KL(pi* || pi_t) shrinks by 1/(1+beta eta)
    a step at least; a larger eta can diverge.
    """
    check_not_negative("beta", beta)
    check_positive("eta", eta)
    anchor, reference, rates = _checked(anchor, reference, preference)
    scale = 1 + beta * eta
    return geometric_mixture((1 / scale, anchor), (beta * eta / scale, reference), tilt=eta / scale * rates)


def sppo_step(anchor: Law, preference: Preference, *, eta: float) -> Law:
    r"""Take one exact step of SPPO, multiplicative weights: :math:`\pi_{t+1} \propto \pi_t \exp(\eta\, w_{\pi_t})`.

    ``eta`` > 0 is the step size: 1/beta in the units of the sampled loss.

    Source: [2]. Iterative IPO against the anchor is the same with eta = 1/tau. The last iterate need not converge.
    """
    check_positive("eta", eta)
    anchor, _, rates = _checked(anchor, anchor, preference)
    return geometric_mixture((1.0, anchor), tilt=eta * rates)


def inpo_step(anchor: Law, reference: Law, preference: Preference, *, eta: float, tau: float) -> Law:
    r"""Take one exact step of INPO, in its own parametrisation.

    .. math::
        \log \pi_{t+1} = \tfrac{\tau}{\eta} \log \pi_{ref} + (1 - \tfrac{\tau}{\eta}) \log \pi_t
            + \tfrac{1}{\eta} w_{\pi_t} + c

    ``eta`` > 0, at least tau, is the inverse step size: larger stays closer to the anchor. ``tau`` >= 0 is the KL
    strength towards the reference.

    Source: [3]. It is :func:`wind_step` with beta = tau and step size 1/(eta - tau).
    """
    check_not_negative("tau", tau)
    check_positive("eta", eta)
    if eta < tau:
        raise ValueError(f"eta must be >= tau, got eta = {eta} and tau = {tau}")
    anchor, reference, rates = _checked(anchor, reference, preference)
    return geometric_mixture((1 - tau / eta, anchor), (tau / eta, reference), tilt=rates / eta)


def nash_md_step(anchor: Law, reference: Law, preference: Preference, *, eta: float, tau: float) -> Law:
    r"""Take one exact step of Nash mirror descent, whose opponent is a geometric mixture with the reference.

    .. math::
        \pi_{t+1} \propto \pi'_t \exp(\eta\, w_{\pi'_t}), \quad \pi'_t \propto \pi_t^{1-\eta\tau}\, \pi_{ref}^{\eta\tau}

    ``eta`` > 0 is the step size, ``tau`` >= 0 the KL strength towards the reference, and eta tau <= 1.

    Source: [4]. At a constant step the limit is biased, by O(eta): win rates are taken at the mixture (derived).
    """
    check_not_negative("tau", tau)
    check_positive("eta", eta)
    if eta * tau > 1:
        raise ValueError(f"eta * tau must be <= 1, got eta = {eta} and tau = {tau}")
    anchor, reference = check_distribution("anchor", anchor), check_distribution("reference", reference)
    mixture = geometric_mixture((1 - eta * tau, anchor), (eta * tau, reference))
    rates = unchecked_win_rates(mixture, check_preference("preference", preference))
    return geometric_mixture((1.0, mixture), tilt=eta * rates)


class OptimisticStep(NamedTuple):
    """Holds what one step of optimistic mirror descent leaves."""

    policy: Law  # pi_t, that plays
    base: Law  # pi'_{t+1}, from which the next step starts
    win_rates: Law  # win rates of each response against pi_t: the next step's prediction


def onpo_step(base: Law, prediction: Values, preference: Preference, *, eta: float) -> OptimisticStep:
    r"""Take one exact step of ONPO, optimistic mirror descent with the last win rates as prediction.

    .. math::
        \pi_t \propto \pi'_t \exp(\eta\, w_{\pi_{t-1}}), \quad \pi'_{t+1} \propto \pi'_t \exp(\eta\, w_{\pi_t})

    ``eta`` > 0 is the step size. Begin with ``base`` (pi'_t) the reference and a ``prediction`` of zeros, and pass on
    what is returned: ``step = onpo_step(step.base, step.win_rates, preference, eta=eta)``.

    Source: [5]. For eta <= 1/8 the last iterate converges to a unique Nash equilibrium.
    """
    check_positive("eta", eta)
    base, prediction = check_distribution("base", base), check_rewards("prediction", prediction)
    policy = geometric_mixture((1.0, base), tilt=eta * prediction)
    rates = unchecked_win_rates(policy, check_preference("preference", preference))
    return OptimisticStep(policy, geometric_mixture((1.0, base), tilt=eta * rates), rates)


def dpo_step(anchor: Law, rewards: Values, *, beta: float) -> Law:
    r"""Take one exact step of iterative DPO on rewards in nats: :math:`\pi_{t+1} \propto \pi_t \exp(r/\beta)`.

    ``beta`` > 0 is the KL strength towards the anchor, which is the step's reference.

    Source: eq. (4) of [6].
    """
    check_positive("beta", beta)
    anchor, rewards = check_distribution("anchor", anchor), check_rewards("rewards", rewards)
    return geometric_mixture((1.0, anchor), tilt=rewards / beta)


def _checked(anchor: Tensor, reference: Tensor, preference: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return anchor, reference, and the win rates against the anchor."""
    anchor, reference = check_distribution("anchor", anchor), check_distribution("reference", reference)
    return anchor, reference, unchecked_win_rates(anchor, check_preference("preference", preference))
