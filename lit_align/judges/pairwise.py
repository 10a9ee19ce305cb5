"""Judges that look at two responses at once, in both orders."""

from collections.abc import Callable
from typing import Any

from lit_align.judges.base import Judge
from lit_align.judges.calls import call_judge
from lit_align.judges.patience import Patience
from lit_align.judges.reward import UserFunction
from lit_align.types import Record, SpecialTokens

Ask = Callable[[list[str], list[str], list[str], list[Record]], list[float]]
"""P(first beats second) in the order given: what a judge with a taste for a place says."""


class PairwiseFunction(Judge):
    """Your own comparison: ``f(prompts, first, second, records) -> list[float]``, P(first beats second) in [0, 1].

    Every pair is asked in both orders and the two answers averaged, so a taste for the first place cancels out. Two
    identical responses are a tie and are not asked about.

    Args:
        function: Dotted path; modules of the working directory can be imported. In Python the function itself will do.
        max_retries: Times it is retried after an error that may pass, such as a timeout, >= 0; what fails to the last
            is missing. A ``TypeError`` and the like stop the run at once.
        backoff: Seconds before the first retry, doubled before each further one, > 0.
        timeout: Seconds after which a call has failed, > 0; null waits for ever.
        version: Yours to change with the function. An edit of the file that it is written in is seen without; one of
            what it imports or reads, or of a function that is in no file, is not.
        special_tokens: Whether it reads the special tokens inside a response, such as ``<think>``: ``keep``, ``drop``.

    Raises:
        ValueError: There is no such function, or a number is out of its range.
    """

    def __init__(
        self,
        function: str | Callable[..., Any],
        max_retries: int = 2,
        backoff: float = 1.0,
        timeout: float | None = None,
        version: str | None = None,
        special_tokens: SpecialTokens = "drop",
    ) -> None:
        self.special_tokens: SpecialTokens = special_tokens
        self.function = UserFunction(function)
        self.version = version
        self.patience = Patience(max_retries, backoff, timeout)

    @property
    def name(self) -> str:
        """The function's dotted path."""
        return self.function.path

    def settings(self) -> dict[str, Any]:
        """The arguments, and the function with the module it is found in."""
        return super().settings() | self.function.settings()

    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """P(first beats second), averaged over the two orders."""

        def ask(*columns: list[Any]) -> list[float]:
            faults, patience = self.faults, self.patience
            return call_judge(
                self.name, self.function.call, columns, low=0.0, high=1.0, patience=patience, faults=faults
            )

        return in_both_orders(ask, prompts, first, second, records)


def in_both_orders(
    ask: Ask, prompts: list[str], first: list[str], second: list[str], records: list[Record]
) -> list[float]:
    """P(first beats second), the mean of what is said of (first, second) and of (second, first).

    Args:
        ask: Called once with both orders of every pair of different responses; identical ones are ties.
        prompts: What the user asked.
        first: One response to each prompt.
        second: Another.
        records: The rows of the user's data.

    Returns:
        Probabilities; nan where either order is: half an answer would have the taste for a place in it.
    """
    probabilities = [0.5] * len(prompts)
    asked = [i for i in range(len(prompts)) if first[i] != second[i]]
    if not asked:
        return probabilities
    x, a, b = ([column[i] for i in asked] for column in (prompts, first, second))
    r = [records[i] for i in asked]
    both = ask(x + x, a + b, b + a, r + r)
    for i, forward, backward in zip(asked, both[: len(asked)], both[len(asked) :], strict=True):
        probabilities[i] = (forward + 1 - backward) / 2
    return probabilities
