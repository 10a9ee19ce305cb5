r"""Newton's method finds the equilibrium of the regularised win-rate game; exact iterates approach it.

[1] T. Yang et al., "Faster WIND", AISTATS 2025, arXiv:2410.20727.

The game :math:`P(\pi \succ \pi') - \beta KL(\pi \| ref) + \beta KL(\pi' \| ref)` has exactly one equilibrium for each
:math:`\beta > 0`, :math:`\pi^*(y) \propto \pi_{ref}(y) \exp(w_{\pi^*}(y) / \beta)`.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.games.checks import (
    check_count,
    check_distribution,
    check_not_negative,
    check_positive,
    check_preference,
)
from lit_align.games.folding import Folding
from lit_align.games.mixtures import geometric_mixture

Law = Float[Tensor, "*#batch Y"]
Preference = Float[Tensor, "*#batch Y Y"]

HALVINGS = 40


def wind_equilibrium(
    reference: Law, preference: Preference, *, beta: float, steps: int = 1000, entries: int = 2**22
) -> Law:
    r"""Return the equilibrium of WIND, :math:`\pi^* \propto \pi_{ref} \exp(w_{\pi^*}/\beta)`, 0 where the reference is.

    Args:
        reference: pi_ref.
        preference: P(y beats z), intransitive or not.
        beta: KL strength, > 0; larger stays closer to the reference, towards 0 it is a Nash equilibrium.
        steps: Newton steps before giving up, >= 1; tens are usual at beta = 0.01.
        entries: Matrix entries held at a time, >= 1 (the default is 32 MiB of float64); bounds memory, changes nothing
            else.

    Returns:
        Applying the equation changes no probability by more than 1e-13 (1e-16/beta for beta < 1e-3, where rounding in
        the exponent is the limit).

    Raises:
        RuntimeError: Newton's method did not converge in so many steps: only a beta far below 1e-3 needs more.
    """
    check_positive("beta", beta)
    check_count("steps", steps, least=1)
    check_count("entries", entries, least=1)
    reference = check_distribution("reference", reference)
    skew = check_preference("preference", preference) - 0.5
    folding = Folding.of(reference, skew)
    laws, matrices = folding.rows(reference), folding.matrices(skew)
    rows = laws.reshape(-1, laws.shape[-1])
    matrix_of = torch.arange(len(matrices), device=skew.device).repeat_interleave(laws.shape[1])
    chunk = max(1, entries // laws.shape[-1] ** 2)
    parts = [
        _newton(law.log(), matrices[index], beta, steps)
        for law, index in zip(rows.split(chunk), matrix_of.split(chunk), strict=True)
    ]
    return folding.unfold(torch.cat(parts).reshape(laws.shape))


def wind_iterates(
    reference: Law,
    preference: Preference,
    *,
    beta: float,
    eta: float,
    iterations: int,
    start: Law | None = None,
) -> Law:
    """Return the last of many exact steps: :func:`lit_align.games.steps.wind_step`, with its arguments checked once.

    An ``eta`` of at most 4 beta shrinks the distance for every preference. ``start`` is pi_0, by default the reference;
    it may have leading dimensions that the others lack, at little cost.
    """
    check_not_negative("beta", beta)
    check_positive("eta", eta)
    check_count("iterations", iterations, least=0)
    reference = check_distribution("reference", reference)
    start = reference if start is None else check_distribution("start", start)
    if beta > 0:
        geometric_mixture((1.0, start), (beta, reference))  # refuses supports that do not meet
    skew = check_preference("preference", preference) - 0.5
    policy, reference = torch.broadcast_tensors(start, reference)
    folding = Folding.of(policy, skew)
    matrices, policy = folding.matrices(skew), folding.rows(policy)
    keep, scale = 1 / (1 + beta * eta), eta / (1 + beta * eta)
    pull = (1 - keep) * folding.rows(reference).log() if beta else torch.zeros_like(policy)
    logits = policy.log()
    for _ in range(iterations):
        # w - ½ = S pi, and rows times S^T is minus rows times S.
        logits.baddbmm_(policy, matrices, beta=keep, alpha=-scale).add_(pull)
        policy = logits.softmax(-1)
    return folding.unfold(policy)


def _newton(log_reference: Tensor, skew: Tensor, beta: float, steps: int) -> Tensor:
    """Solve a batch of rows, each with its own matrix; rows that have converged cost nothing more."""
    # With z = log(pi/ref) and the skew part S = P - 1/2 the equation is z - S pi/beta = 0 up to a constant, and its
    # derivative is I - S(D - pi pi^T)/beta with D = diag(pi). The eigenvalues of S(D - pi pi^T) are those of a skew
    # matrix, imaginary: the derivative is regular everywhere, every residual has a direction that shrinks it, and
    # halving the step until it does so converges from any start (derived).
    tolerance = max(1e-13, 1e-16 / beta)
    solution = torch.empty_like(log_reference)
    active = torch.arange(len(solution), device=solution.device)
    logratio = torch.zeros_like(log_reference)
    for _ in range(steps):
        policy, residual = _residual(log_reference, skew, logratio, beta)
        solution[active] = policy
        image = (log_reference + logratio - residual).softmax(-1)
        running = (policy - image).abs().amax(-1) > tolerance
        if not running.any():
            return solution
        if not running.all():
            active, log_reference, skew = active[running], log_reference[running], skew[running]
            logratio, policy, residual = logratio[running], policy[running], residual[running]
        # This is S(D - pi pi^T) / beta, without forming the bracket.
        flow = skew * policy.unsqueeze(-2) / beta
        flow = flow - flow.sum(-1, keepdim=True) * policy.unsqueeze(-2)
        derivative = torch.eye(policy.shape[-1], dtype=policy.dtype, device=policy.device) - flow
        direction = torch.linalg.solve(derivative, residual)
        logratio = _descend(log_reference, skew, logratio, direction, residual, beta)
    raise RuntimeError(f"{len(active)} equilibria have not converged at beta = {beta}: give a larger beta")


def _descend(
    log_reference: Tensor, skew: Tensor, logratio: Tensor, direction: Tensor, residual: Tensor, beta: float
) -> Tensor:
    """Take the full Newton step, halved in each row until its residual shrinks."""
    step = torch.ones_like(residual[..., :1])
    before = residual.norm(dim=-1, keepdim=True)
    for _ in range(HALVINGS):
        _, after = _residual(log_reference, skew, logratio - step * direction, beta)
        stuck = after.norm(dim=-1, keepdim=True) > (1 - 1e-4 * step) * before
        if not stuck.any():
            break
        step = torch.where(stuck, step / 2, step)
    return logratio - step * direction


def _residual(log_reference: Tensor, skew: Tensor, logratio: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Return the policy of a log-ratio, and how far that log-ratio is from the one the policy asks for."""
    policy = (log_reference + logratio).softmax(-1)
    return policy, logratio - (skew @ policy.unsqueeze(-1)).squeeze(-1) / beta
