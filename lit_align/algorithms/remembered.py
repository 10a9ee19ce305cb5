"""Recorded log-probabilities, used again where this run's own policy is seen to give the very same bits."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.algorithms.collector import Score
from lit_align.types import Responses, Rollouts

NAMES = ("anchor_token_logps", "reference_token_logps", "current_token_logps")


class Remembered:
    """A `Score` that computes its first micro-batch, and looks the others up if a record agrees with it in every bit.

    What was recorded belongs to the policies of the run that recorded it. Whether one of them is the policy that scores
    now is not a matter of names: a record that agrees bit for bit on a whole micro-batch was made by the same weights,
    in the same precision. Any other is not used, and all is computed.

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
        """Token log-probs of some of the responses."""
        rows = [self._rows[record_id] for record_id in responses.prompts.record_id.tolist()]
        if not self._sure:
            computed = self._score(responses)
            self._records = [record for record in self._records if torch.equal(record[rows], computed.cpu())]
            self._sure = bool(self._records)
            return computed
        return self._records[0][rows]


def remembered(scores: dict[str, Score], given: Rollouts | None) -> tuple[dict[str, Score], Rollouts | None]:
    """Scores that use what rollouts of another run hold, and those rollouts without it.

    Args:
        scores: How each policy scores responses.
        given: Recorded rollouts, if the responses are there already.
    """
    if given is None:
        return scores, None
    bare = replace(given, anchor_token_logps=None, reference_token_logps=None, current_token_logps=None).trim()
    records = [value for name in NAMES if (value := getattr(given.trim(), name)) is not None]
    if not records:
        return scores, bare
    return {name: Remembered(score, bare.responses, records) for name, score in scores.items()}, bare
