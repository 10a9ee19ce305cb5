"""Some judges look at two responses at once, and are asked in both orders."""

from collections.abc import Callable
from typing import Any

from typing_extensions import override

from lit_align.judges.base import Judge
from lit_align.judges.calls import call_judge
from lit_align.judges.patience import Patience
from lit_align.judges.reward import UserFunction
from lit_align.types import Record, SpecialTokens

Ask = Callable[[list[str], list[str], list[str], list[Record]], list[float]]
"""It returns P(first beats second) in the order given, from a judge that may prefer a place."""


class PairwiseFunction(Judge):
    """Asks your function ``f(prompts, first, second, records) -> list[float]`` for P(first beats second) in [0, 1].

    Every pair is asked in both orders and the two answers averaged, so a preference for the first place cancels out.
    Two identical responses are a tie and are not asked about.

    Args:
        function: Dotted path; modules of the working directory can be imported. In Python the function itself will do.
        max_retries: Times it is retried after an error that may pass, such as a timeout, >= 0; what fails to the last
            retry is missing. A ``TypeError`` and the like stop the run at once.
        backoff: Seconds before the first retry, doubled before each further one, > 0.
        timeout: Seconds after which a call has failed, > 0; null waits for ever.

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
    @override
    def name(self) -> str:
        return self.function.path

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | self.function.settings()

    @override
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        def ask(*columns: list[Any]) -> list[float]:
            faults, patience = self.faults, self.patience
            return call_judge(
                self.name, self.function.call, columns, low=0.0, high=1.0, patience=patience, faults=faults
            )

        return in_both_orders(ask, prompts, first, second, records)


def in_both_orders(
    ask: Ask, prompts: list[str], first: list[str], second: list[str], records: list[Record]
) -> list[float]:
    """Return P(first beats second), the mean of what is said of (first, second) and of (second, first).

    ``ask`` is called once with both orders of every pair of different responses; identical ones are ties.

    Returns:
        Probabilities; nan where either order has none, since one order alone may prefer a place.
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
