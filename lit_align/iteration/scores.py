"""Responses are scored under the policies that a loss needs.

Nothing is computed twice: policies that are one network still are scored once and checked to be the same, and what
another run has recorded is used where it is seen to be the very same bits.
"""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lit_align.anchors.base import Anchor
from lit_align.iteration.collector import Score
from lit_align.models.policy import Policy
from lit_align.types import SCORED, Responses, Rollouts


def check_same(names: str, first: Tensor | None, second: Tensor | None, *, exact: bool) -> None:
    """Refuse token log-probs that differ by more than rounding, with a RuntimeError; None is not checked.

    ``names`` of policies are for the message. Half precision, which is not ``exact``, allows a coarse check alone.
    """
    if first is None or second is None:
        return
    gap = float((first - second.to(first.device)).abs().max())
    if gap > (1e-2 if exact else 0.5):
        raise RuntimeError(
            f"{names} should be the same as an iteration begins, but differ by {gap:.3g} nats on a token: are both "
            "loaded in the same precision, and is dropout off?"
        )


def has_dropout(network: nn.Module) -> bool:
    """Say whether dropout is at work in it now."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 and module.training for module in network.modules())


def full_precision(trainer_precision: object, dtype: torch.dtype) -> bool:
    """Say whether log-probs are computed without rounding to half precision, in products of matrices either."""
    whole = dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
    return whole and str(trainer_precision).startswith(("32", "64")) and dtype in (torch.float32, torch.float64)


def scores_of(policy: Policy, anchor: Anchor, needs: Collection[str], *, same: bool, exact: bool) -> dict[str, Score]:
    """Return how responses are scored while collecting, by the policies that a loss ``needs``.

    ``same`` says that nothing has been trained yet, so that anchor, reference and policy are one network, and ``exact``
    that they are computed in full precision.
    """
    scores: dict[str, Score] = {
        "anchor": lambda responses: anchor.logps(policy, responses),
        "reference": lambda responses: policy.logps(responses, "reference"),
        "current": lambda responses: policy.logps(responses, "policy"),
    }
    needed = {name: score for name, score in scores.items() if name in needs}
    return of_one_network(needed, exact=exact) if same else needed


def of_one_network(scores: dict[str, Score], *, exact: bool) -> dict[str, Score]:
    """Return scores of policies that have not parted yet: the first of them does the work for all.

    Every other one scores a single group for itself, and is refused if that differs. All are asked about the same parts
    of an iteration.
    """
    found: dict[tuple[int, ...], Tensor] = {}

    def shared(name: str, score: Score) -> Score:
        checked = False

        def scored(responses: Responses) -> Tensor:
            nonlocal checked
            key = tuple(responses.prompts.record_id.tolist())
            if key not in found:
                found[key] = score(responses).cpu()
                checked = True
            if not checked:
                own = score(responses.select([0]))
                check_same(f"policy and {name}", own, found[key][:1], exact=exact)
                checked = True
            return found[key]

        return cast(Score, scored)

    return {name: shared(name, score) for name, score in scores.items()}


class Remembered:
    """Scores its first micro-batch, and looks the others up if a record agrees with it in every bit.

    What was recorded belongs to the policies of the run that recorded it. Whether one of them is the policy that scores
    now is not a matter of names: a record that agrees on a whole micro-batch was made by the same weights, in the same
    precision. Otherwise all is computed.

    Args:
        score: Computes token log-probs.
        responses: All that will be asked for, in parts.
        records: Token log-probs of all of them under the policies of another run.
    """

    def __init__(
        self, score: Score, responses: Responses, records: Sequence[Float[Tensor, "batch group length"]]
    ) -> None:
        self._score = score
        self._rows = {record_id: row for row, record_id in enumerate(responses.prompts.record_id.tolist())}
        self._records = list(records)
        self._sure = False

    def __call__(self, responses: Responses) -> Float[Tensor, "batch group length"]:
        """Return token log-probs of some of the responses."""
        rows = [self._rows[record_id] for record_id in responses.prompts.record_id.tolist()]
        if not self._sure:
            computed = self._score(responses)
            self._records = [record for record in self._records if torch.equal(record[rows], computed.cpu())]
            self._sure = bool(self._records)
            return computed
        return self._records[0][rows]


def remembered(scores: dict[str, Score], given: Rollouts | None) -> tuple[dict[str, Score], Rollouts | None]:
    """Return scores that use what rollouts of another run hold (``given``), and those rollouts without it."""
    if given is None:
        return scores, None
    bare = given.with_token_logps(dict.fromkeys(SCORED)).trim()
    known = given.trim().token_logps
    records = [known[policy] for policy in SCORED if policy in known]
    if not records:
        return scores, bare
    return {name: Remembered(score, bare.responses, records) for name, score in scores.items()}, bare
