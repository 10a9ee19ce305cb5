r"""Best-of-n and iterative best-of-n distillation (BOND) have exact laws on a finite response set.

[1] P. G. Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", ICLR 2025, arXiv:2407.14622.
[2] T. Yang et al., "Faster WIND: Accelerating Iterative Best-of-N Distillation for LLM Alignment", AISTATS 2025,
    arXiv:2410.20727.

Iterative BOND with mixing rates :math:`a_1 > 0, a_2 \ge 0, a_1 + a_2 \le 1` is

.. math::
    \pi_{t+1} \propto (\pi_t^{(n)})^{a_1}\, \pi_t^{a_2}\, \pi_{ref}^{1-a_1-a_2},

and no mixing is :math:`a_1 = 1`. For many responses the best-of-n law is close to
:math:`\pi_t^{(n)} \propto \pi_t\, P(y \succeq \pi_t)^{n-1}`; with that law the limit is the log-win-rate equilibrium
at :func:`bond_beta` (derived). With the exact law the limit is another one.
"""

import torch
from jaxtyping import Float, Real
from torch import Tensor

from lit_align.games.checks import check_count, check_distribution, check_dominance, check_positive, check_rewards
from lit_align.games.folding import Folding
from lit_align.games.measures import unchecked_win_rates
from lit_align.games.mixtures import geometric_mixture
from lit_align.losses.best_of_n import best_of_n_ratio, cumulative, log_best_of_n_ratio

Law = Float[Tensor, "*#batch Y"]
Dominance = Float[Tensor, "*#batch Y Y"]
Rewards = Real[Tensor, "*#batch Y"]

ROUNDING = 1e-12
"""Mixing rates whose sum is this near to one count as rates that sum to one."""
BLOCK = 20
"""The residual is looked at once in so many iterations."""


def best_of_n(policy: Law, rewards: Rewards, n: int) -> Law:
    """Return the law of the best of ``n`` >= 1 independent draws, ties broken at random: eq. (4) of [1].

    Only the order of the rewards matters.
    """
    policy, rewards = check_distribution("policy", policy), check_rewards("rewards", rewards)
    check_count("n", n, least=1)
    return policy * best_of_n_ratio(*cumulative(policy, rewards), n)


def bond_step(
    policy: Law,
    reference: Law,
    *,
    n: int,
    rewards: Rewards | None = None,
    dominance: Dominance | None = None,
    a1: float = 1.0,
    a2: float = 0.0,
) -> Law:
    """Return pi_{t+1} of one iteration of BOND, distilled perfectly and mixed as the module's docstring says.

    ``n`` >= 1 is the number of draws. ``rewards`` are given for the exact best-of-n law or, instead of them,
    ``dominance`` for the law of many responses. ``a1`` in (0, 1] is the weight of that law and ``a2`` in [0, 1 - a1]
    the weight of the policy, pi_t; what remains is the weight of the reference.
    """
    rest = _reference_weight(a1, a2)
    check_count("n", n, least=1)
    policy, reference = check_distribution("policy", policy), check_distribution("reference", reference)
    if (rewards is None) == (dominance is None):
        raise ValueError("give exactly one of rewards (exact law) and dominance (law of many responses)")
    if rewards is not None:
        log_ratio = log_best_of_n_ratio(*cumulative(policy, check_rewards("rewards", rewards)), n)
    else:
        assert dominance is not None
        log_ratio = torch.xlogy(n - 1, unchecked_win_rates(policy, check_dominance("dominance", dominance)))
    return geometric_mixture((a1 + a2, policy), (rest, reference), tilt=a1 * log_ratio)


def bond_beta(n: int, *, a1: float, a2: float = 0.0) -> float:
    r"""Return the KL strength of the game that mixed iterative BOND solves, :math:`\beta = (1-a_1-a_2) / ((n-1) a_1)`.

    It is >= 0, in win-rate units, for ``n`` >= 2 and the rates of :func:`bond_step`.
    """
    check_count("n", n, least=2)
    return _reference_weight(a1, a2) / ((n - 1) * a1)


def log_win_rate_equilibrium(
    reference: Law, dominance: Dominance, *, beta: float, tolerance: float = 1e-12, iterations: int = 200_000
) -> Law:
    r"""Return the log-win-rate equilibrium, :math:`\pi^*(y) \propto \pi_{ref}(y)\, P(y \succeq \pi^*)^{1/\beta}`.

    Mixed iteration reaches it. It need not be unique, so the start at the reference matters; nor interior: for 0/1
    dominance and beta < 1 the point mass on the best response is one, and often the one that is reached.

    Args:
        reference: pi_ref.
        dominance: What the responses are compared by.
        beta: KL strength, > 0; larger stays closer to the reference.
        tolerance: Largest change of a probability under the equation above, at the result.
        iterations: At most so many; needed in inverse proportion to min(beta, 1) and more near a change of stability.

    Raises:
        RuntimeError: A row has not converged.
    """
    check_positive("beta", beta)
    reference, dominance = check_distribution("reference", reference), check_dominance("dominance", dominance)
    folding = Folding.of(reference, dominance)
    log_reference, matrices = folding.rows(reference).log(), folding.matrices(dominance)
    solution = log_reference.exp()
    active = torch.arange(len(solution), device=solution.device)
    # The iteration is BOND with n = 2, a1 = 1/(1+beta), a2 = 0 and the law of many responses.
    # The log-ratio to the reference is kept, not the log-probability: it is finite where the reference is 0.
    logratio = torch.zeros_like(solution)
    for _ in range(0, iterations, BLOCK):
        for _ in range(BLOCK):
            response = _log_best_response(log_reference, logratio, matrices, beta)
            logratio = (logratio + beta * response) / (1 + beta)
        policy = (log_reference + logratio).softmax(-1)
        image = (log_reference + _log_best_response(log_reference, logratio, matrices, beta)).softmax(-1)
        solution[active] = policy
        running = (policy - image).abs().amax((-1, -2)) > tolerance
        if not running.any():
            return folding.unfold(solution)
        if not running.all():
            active, logratio = active[running], logratio[running]
            log_reference, matrices = log_reference[running], matrices[running]
    raise RuntimeError(
        f"{len(active)} of {len(solution)} matrices have no equilibrium within {tolerance} after {iterations} "
        f"iterations at beta = {beta}: give more iterations or a larger beta"
    )


def _log_best_response(log_reference: Tensor, logratio: Tensor, matrices: Tensor, beta: float) -> Tensor:
    policy = (log_reference + logratio).softmax(-1)
    return (policy @ matrices.mT).log() / beta


def _reference_weight(a1: float, a2: float) -> float:
    if not (0 < a1 <= 1 and a2 >= 0 and a1 + a2 <= 1 + ROUNDING):
        raise ValueError(f"mixing rates need a1 in (0, 1] and a2 in [0, 1 - a1], got a1 = {a1} and a2 = {a2}")
    rest = 1 - a1 - a2
    return rest if rest > ROUNDING else 0.0
