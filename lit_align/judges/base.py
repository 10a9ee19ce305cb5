"""What a judge is: it meets text, and says which of two responses is better, as a probability."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_align.types import Prompts, Record

Report = Callable[[int], None]
"""Called with the number of prompts judged since the last call: what progress bars listen to."""


class JudgeError(RuntimeError):
    """A judge raised, or returned something that is no judgement."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of groups of responses.

    Attributes:
        wins: ``wins[b, i, j] = P(y_i beats y_j | x_b)``, ½ on the diagonal and where a comparison is missing,
            ``wins + wins^T = 1``.
        compared: False where a comparison is missing.
        rewards: Scalar rewards, where the judge has them.
    """

    wins: Float[Tensor, "batch group group"]
    compared: Bool[Tensor, "batch group group"]
    rewards: Float[Tensor, "batch group"] | None


class Judge(ABC):
    """Compares responses. Subclasses give :meth:`compare`, or rewards (``RewardJudge``)."""

    has_rewards = False
    prompts_at_once = 32  # groups in one call of `compare`

    @property
    def name(self) -> str:
        """What error messages and tables call it."""
        return type(self).__name__

    def to(self, device: torch.device | str) -> None:
        """Move to the policy's device; a judge without a network has nothing to move."""
        del device

    def check(self) -> None:  # noqa: B027  (most judges have nothing to check)
        """Refuse what cannot work, before any weights load and anything is sampled."""

    @abstractmethod
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """P(first beats second), one number in [0, 1] a comparison; nan where the comparison is missing.

        Args:
            prompts: What the user asked.
            first: One response to each prompt.
            second: Another.
            records: The rows of the user's data that the prompts came from.
        """

    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        """Judge all pairs of every group.

        Args:
            prompts: The prompts.
            texts: K responses to each.
            report: Told how many prompts were done since it was last told.
        """
        size = len(texts[0])
        wins = torch.full((len(texts), size, size), 0.5)
        compared = torch.ones_like(wins, dtype=torch.bool)
        pairs = list(combinations(range(size), 2))
        for start in range(0, len(texts), self.prompts_at_once):
            rows = range(start, min(start + self.prompts_at_once, len(texts)))
            asked = [(b, i, j) for b in rows for i, j in pairs]
            probabilities = self.compare(
                [prompts.texts[b] for b, _, _ in asked],
                [texts[b][i] for b, i, _ in asked],
                [texts[b][j] for b, _, j in asked],
                [prompts.records[b] for b, _, _ in asked],
            )
            for (b, i, j), p in zip(asked, probabilities, strict=True):
                if math.isnan(p):
                    compared[b, i, j] = compared[b, j, i] = False
                else:
                    wins[b, i, j], wins[b, j, i] = p, 1 - p
            if report is not None:
                report(len(rows))
        return Verdict(wins, compared, None)

    def beats(
        self,
        prompts: Prompts,
        first: list[str],
        second: list[str],
        first_rewards: Float[Tensor, " batch"] | None = None,
        second_rewards: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """P(first beats second) for one pair a prompt, nan where the comparison is missing.

        Rewards already known are not computed again.
        """
        del first_rewards, second_rewards
        return torch.tensor(self.compare(prompts.texts, first, second, prompts.records))


def call_judge(
    name: str,
    function: Callable[..., Any],
    columns: Sequence[list[Any]],
    *,
    low: float = -math.inf,
    high: float = math.inf,
) -> list[float]:
    """Call a judge on a batch and check what it returns.

    Args:
        name: The judge, for messages.
        function: Takes the columns, returns one number a row.
        columns: Lists of equal length; the first is the prompt, the second a response.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        JudgeError: It raised, returned another number of values, or one that is not finite or out of range; the
            message names the judge and the sample.
    """
    rows = len(columns[0])
    try:
        values = list(function(*columns))
    except Exception as error:
        row = _first_raising(function, columns)
        where = "on the whole batch, though on no sample alone" if row is None else f"on {_sample(columns, row)}"
        raise JudgeError(f"judge {name} raised {type(error).__name__}: {error} ({where})") from error
    if len(values) != rows:
        raise JudgeError(f"judge {name} returned {len(values)} values for {rows} samples: it must return one for each")
    for row, value in enumerate(values):
        number = _number(value)
        if number is None:
            raise JudgeError(f"judge {name} returned {value!r}, not a number, on {_sample(columns, row)}")
        if not (math.isfinite(number) and low <= number <= high):
            expected = "a finite number" if math.isinf(low) else f"a number in [{low:g}, {high:g}]"
            raise JudgeError(f"judge {name} returned {number}, not {expected}, on {_sample(columns, row)}")
    return [float(value) for value in values]


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _first_raising(function: Callable[..., Any], columns: Sequence[list[Any]]) -> int | None:
    for row in range(len(columns[0])):
        try:
            list(function(*[column[row : row + 1] for column in columns]))
        except Exception:
            return row
    return None


def _sample(columns: Sequence[list[Any]], row: int) -> str:
    prompt, response = columns[0][row], columns[1][row]
    return f"sample {row}: prompt {_short(prompt)}, response {_short(response)}"


def _short(text: object, limit: int = 80) -> str:
    shown = repr(text)
    return shown if len(shown) <= limit else shown[: limit - 4] + "...'"
