"""Judges that look at two responses at once, in both orders."""

from lit_align.judges.base import Judge, call_judge
from lit_align.judges.reward import import_function
from lit_align.types import Record


class PairwiseFunction(Judge):
    """Your own comparison: ``f(prompts, first, second, records) -> list[float]``, P(first beats second) in [0, 1].

    Every pair is asked in both orders and the two answers averaged, so a taste for the first place cancels out. Two
    identical responses are a tie and are not asked about.

    Args:
        function: Dotted path; modules of the working directory can be imported.

    Raises:
        ValueError: There is no such function.
    """

    def __init__(self, function: str) -> None:
        self.path = function
        self._function = import_function(function)

    @property
    def name(self) -> str:
        """The function's dotted path."""
        return self.path

    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """P(first beats second), averaged over the two orders."""
        probabilities = [0.5] * len(prompts)
        asked = [i for i in range(len(prompts)) if first[i] != second[i]]
        if not asked:
            return probabilities
        x, a, b, r = ([column[i] for i in asked] for column in (prompts, first, second, records))
        both = call_judge(self.name, self._function, (x + x, a + b, b + a, r + r), low=0.0, high=1.0)
        for i, forward, backward in zip(asked, both[: len(asked)], both[len(asked) :], strict=True):
            probabilities[i] = (forward + 1 - backward) / 2
        return probabilities
