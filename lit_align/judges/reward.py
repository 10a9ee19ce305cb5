"""Some judges give every response a scalar reward; a pair of rewards becomes a win in one of two ways."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from lit_align.judges.base import Judge, Report, Verdict
from lit_align.judges.calls import call_judge, in_order
from lit_align.judges.patience import Patience
from lit_align.types import Prompts, Record, SpecialTokens
from lit_align.utils.code_digests import defining_module, module_digest
from lit_align.utils.user_functions import import_function, path_of

Comparison = Literal["hard", "bradley_terry"]


def wins_from_rewards(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], comparison: Comparison = "hard", temperature: float = 1.0
) -> Float[Tensor, "..."]:
    r"""Return P(first beats second) from rewards.

    ``hard`` is :math:`1\{r > r'\} + \tfrac12 1\{r = r'\}` (a tie favours nobody); ``bradley_terry`` is
    :math:`\sigma((r - r')/T)`. Where a reward is nan, it is missing, and so is what follows from it.

    Args:
        first: Rewards.
        second: Rewards of the opponents, broadcast against ``first``.
        comparison: ``hard`` or ``bradley_terry``.
        temperature: T > 0, in units of reward; larger is softer.
    """
    if comparison == "bradley_terry":
        return torch.sigmoid((first - second) / temperature)
    wins = (first > second).to(first.dtype) + 0.5 * (first == second).to(first.dtype)
    return torch.where((first - second).isnan(), torch.nan, wins)


class RewardJudge(Judge):
    """Gives each response a reward; wins follow from rewards.

    Args:
        comparison: ``hard`` (the better reward wins, ties are ½) or ``bradley_terry``.
        temperature: T of the Bradley-Terry law, in units of reward, > 0; larger is softer.
    """

    has_rewards = True

    def __init__(
        self, comparison: Comparison = "hard", temperature: float = 1.0, special_tokens: SpecialTokens = "drop"
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"judge.temperature must be > 0, got {temperature}")
        self.comparison: Comparison = comparison
        self.temperature = temperature
        self.special_tokens: SpecialTokens = special_tokens

    @abstractmethod
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        """Return one number for each response; larger is better."""

    @override
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        rewards = self._asked_rewards(prompts, first, records), self._asked_rewards(prompts, second, records)
        probabilities: list[float] = self._wins(*rewards).tolist()
        return probabilities

    @override
    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        size = len(texts[0])
        parts: list[Tensor] = []
        for start in range(0, len(texts), self.prompts_at_once):
            rows = range(start, min(start + self.prompts_at_once, len(texts)))
            asked = [prompts.texts[b] for b in rows for _ in range(size)]
            records = [prompts.records[b] for b in rows for _ in range(size)]
            parts.append(self._asked_rewards(asked, [text for b in rows for text in texts[b]], records))
            if report is not None:
                report(len(rows))
        rewards = torch.cat(parts).view(len(texts), size)
        wins = self._wins(rewards[:, :, None], rewards[:, None, :])
        own = torch.eye(size, dtype=torch.bool)  # a response is compared with itself even if its reward is missing
        return Verdict(wins.nan_to_num(0.5), ~wins.isnan() | own, rewards)

    @override
    def beats(
        self,
        prompts: Prompts,
        first: list[str],
        second: list[str],
        first_rewards: Float[Tensor, " batch"] | None = None,
        second_rewards: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        if first_rewards is None or second_rewards is None:
            return super().beats(prompts, first, second)
        return self._wins(first_rewards, second_rewards)

    def _asked_rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Tensor:
        columns = (prompts, responses, records)
        faults, patience = self.faults, self.patience
        return torch.tensor(call_judge(self.name, self.rewards, columns, patience=patience, faults=faults))

    def _wins(self, first: Tensor, second: Tensor) -> Tensor:
        return wins_from_rewards(first, second, self.comparison, self.temperature)


class RewardFunction(RewardJudge):
    """Rewards responses by a function of your own: ``f(prompts, responses, records) -> list[float]``.

    Args:
        function: Dotted path, such as ``my_rewards.brevity``; modules of the working directory can be imported. In
            Python the function itself will do.
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
        comparison: Comparison = "hard",
        temperature: float = 1.0,
        max_retries: int = 2,
        backoff: float = 1.0,
        timeout: float | None = None,
        version: str | None = None,
        special_tokens: SpecialTokens = "drop",
    ) -> None:
        super().__init__(comparison, temperature, special_tokens)
        self.patience = Patience(max_retries, backoff, timeout)
        self.function = UserFunction(function)
        self.version = version

    @property
    @override
    def name(self) -> str:
        return self.function.path

    @override
    def settings(self) -> dict[str, Any]:
        return super().settings() | self.function.settings()

    @override
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        return in_order(self.function.call(prompts, responses, records))


class UserFunction:
    """Holds a function that a judge calls; it is the same judge, whether a config names it or Python hands it over.

    Args:
        function: A dotted path, or the function itself.

    Attributes:
        path: Its dotted path; that of a lambda or a local function says where it is written, and leads nowhere.

    Raises:
        ValueError: There is no such function.
    """

    def __init__(self, function: str | Callable[..., Any]) -> None:
        self.path = function if isinstance(function, str) else path_of(function)
        self.call = import_function(function, "judge.function") if isinstance(function, str) else function
        module_digest(defining_module(self.call))  # it digests the code that runs, whatever becomes of its file

    def settings(self) -> dict[str, Any]:
        """Return what the verdicts of the function depend on: itself, and the module it is found in."""
        module = self.path.rpartition(".")[0]
        return {"function": self.path, "module": module_digest(module), "does": self.call}
