"""Log-probs of several policies that are one network still: computed once, and checked to be the same."""

from typing import cast

from torch import Tensor

from lit_align.algorithms.agreement import check_same
from lit_align.algorithms.collector import Score
from lit_align.types import Responses


def of_one_network(scores: dict[str, Score], *, exact: bool) -> dict[str, Score]:
    """Scores of policies that have not parted yet: the first of them does the work for all.

    Every other one scores a single group for itself, and is refused if that differs.

    Args:
        scores: How each policy scores responses; all are asked about the same parts of an iteration.
        exact: They are computed in full precision, so what differs is more than rounding.
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
