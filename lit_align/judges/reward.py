"""Judges that give every response a scalar reward, and the two ways a pair of rewards becomes a win."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lit_align.judges.base import Judge, Report, Verdict
from lit_align.judges.calls import call_judge, in_order
from lit_align.judges.patience import Patience
from lit_align.types import Prompts, Record
from lit_align.utils.code_digests import defining_module, module_digest
from lit_align.utils.user_functions import import_function, path_of

Comparison = Literal["hard", "bradley_terry"]


def wins_from_rewards(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], comparison: Comparison = "hard", temperature: float = 1.0
) -> Float[Tensor, "..."]:
    r"""P(first beats second) from rewards.

    ``hard`` is :math:`1\{r > r'\} + \tfrac12 1\{r = r'\}` (a tie favours nobody); ``bradley_terry`` is
    :math:`\sigma((r - r')/T)`. Where a reward is nan, it is missing, and so is what follows from it.

    Args:
        first: Rewards.
        second: Rewards of the opponents, broadcast against ``first``.
        comparison: Which law.
        temperature: T > 0, in units of reward; larger is softer.
    """
    if comparison == "bradley_terry":
        return torch.sigmoid((first - second) / temperature)
    wins = (first > second).to(first.dtype) + 0.5 * (first == second).to(first.dtype)
    return torch.where((first - second).isnan(), torch.nan, wins)


class RewardJudge(Judge):
    """A judge with a reward for each response; wins follow from rewards.

    Args:
        comparison: ``hard`` (the better reward wins, ties are ½) or ``bradley_terry``.
        temperature: Of the Bradley-Terry law, in units of reward, > 0.
    """

    has_rewards = True

    def __init__(self, comparison: Comparison = "hard", temperature: float = 1.0) -> None:
        if temperature <= 0:
            raise ValueError(f"judge.temperature must be > 0, got {temperature}")
        self.comparison: Comparison = comparison
        self.temperature = temperature

    @abstractmethod
    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        """One number a response, larger is better."""

    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """P(first beats second), by the law of ``comparison``."""
        rewards = self._asked_rewards(prompts, first, records), self._asked_rewards(prompts, second, records)
        probabilities: list[float] = self._wins(*rewards).tolist()
        return probabilities

    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        """Reward every response once; compare all pairs of rewards."""
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

    def beats(
        self,
        prompts: Prompts,
        first: list[str],
        second: list[str],
        first_rewards: Float[Tensor, " batch"] | None = None,
        second_rewards: Float[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        """P(first beats second) for one pair a prompt; rewards already known are not computed again."""
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
    """Your own reward: a function ``f(prompts, responses, records) -> list[float]``.

    Args:
        function: Dotted path, such as ``my_rewards.brevity``; modules of the working directory can be imported. In
            Python the function itself will do.
        comparison: ``hard`` or ``bradley_terry``.
        temperature: Of the Bradley-Terry law, in units of reward, > 0.
        max_retries: Times it is retried after an error that may pass, such as a timeout, >= 0; what fails to the last
            is missing. A ``TypeError`` and the like stop the run at once.
        backoff: Seconds before the first retry, doubled before each further one, > 0.
        timeout: Seconds after which a call has failed, > 0; null waits for ever.
        version: Yours to change with the function. An edit of the file that it is written in is seen without; one of
            what it imports or reads, or of a function that is in no file, is not.

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
    ) -> None:
        super().__init__(comparison, temperature)
        self.patience = Patience(max_retries, backoff, timeout)
        self.function = UserFunction(function)
        self.version = version

    @property
    def name(self) -> str:
        """The function's dotted path."""
        return self.function.path

    def settings(self) -> dict[str, Any]:
        """The arguments, and the function with the module it is found in."""
        return super().settings() | self.function.settings()

    def rewards(self, prompts: list[str], responses: list[str], records: list[Record]) -> Sequence[float]:
        """What the function returns."""
        return in_order(self.function.call(prompts, responses, records))


class UserFunction:
    """A function that a judge calls. A config names it, or Python hands it over.

    A function that lies in a module is the same judge, whether it is named or handed over.

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
        module_digest(defining_module(self.call))  # of the code that runs, whatever becomes of its file from here on

    def settings(self) -> dict[str, Any]:
        """What the verdicts of the function depend on: itself, and the module it is found in."""
        module = self.path.rpartition(".")[0]
        return {"function": self.path, "module": module_digest(module), "does": self.call}
