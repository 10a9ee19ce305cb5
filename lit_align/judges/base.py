"""A judge meets text, and says which of two responses is better, as a probability."""

import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lit_align.judges.calls import call_judge
from lit_align.judges.identity import Description
from lit_align.judges.patience import Faults, JudgeError, Patience
from lit_align.types import Prompts, Record, SpecialTokens
from lit_align.utils.annotations import inherit_annotations
from lit_align.utils.arguments import built_with, is_noted, noting
from lit_align.utils.digests import text_digest

log = logging.getLogger(__name__)

Report = Callable[[int], None]
"""It is called with the number of prompts judged since the last call; progress bars listen to it."""


@dataclass(frozen=True)
class Verdict:
    """Holds what a judge says of groups of responses.

    Attributes:
        wins: ``wins[b, i, j] = P(y_i beats y_j | x_b)``, ½ on the diagonal and where a comparison is missing,
            ``wins + wins^T = 1``.
        compared: False where a comparison is missing.
        rewards: Scalar rewards, where the judge has them; nan where one is missing.
    """

    wins: Float[Tensor, "batch group group"]
    compared: Bool[Tensor, "batch group group"]
    rewards: Float[Tensor, "batch group"] | None


class Judge(ABC):
    """Compares responses; a subclass defines :meth:`compare`, or rewards (``RewardJudge``).

    A judge that raises is retried; what it still fails on is a missing comparison, never a tie. An error of its own
    code, such as a ``TypeError``, stops the run at once with the sample.

    Its verdicts are kept under its :attr:`identity`: its class, every argument it was built with but the
    :attr:`indifferent` ones, and, for a class of your own, the file that it is written in. One that differs in any of
    it is another judge.

    Attributes:
        version: Text that you change with the code of a judge or function of your own. An edit of the file that it is
            written in is seen without; one of what it imports or reads, or of code in no file, such as a
            notebook's, is not.
        special_tokens: Whether it reads the special tokens inside a response, such as ``<think>``: ``keep`` or
            ``drop``. It never reads the token that ends a response.
    """

    indifferent: ClassVar[frozenset[str]] = frozenset(
        {
            *("max_retries", "timeout", "backoff", "concurrency", "api_key_env"),
            *("cache", "device", "batch_size", "token_budget"),
        }
    )
    """Verdicts do not depend on these arguments. A subclass with more of them adds to these."""

    version: str | None = None
    special_tokens: SpecialTokens = "drop"
    has_rewards = False
    prompts_at_once = 32  # one call of `compare` takes so many groups
    remembers = False
    """It says that a judge answers from elsewhere, then from memory: it is asked while the device samples."""
    patience: Patience | None = Patience()
    """It is the patience with a judge that may fail for a while; with None any error is taken for one of its code."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a subclass note its arguments, and a digest of its code while that is the code that runs."""
        super().__init_subclass__(**kwargs)
        inherit_annotations(cls)
        for name in ("__init__", "__post_init__"):  # a dataclass hands to the second what it makes no field of
            init: Any = getattr(cls, name, None)
            of_no_judge = inspect.isfunction(init) and not is_noted(init)
            if name in vars(cls) or of_no_judge:
                setattr(cls, name, noting(init))
        about = Description()
        cls._code_of_class = about.code(cls), *about.unknown

    # It holds the digest, which is empty for our own, and the names of code without source.
    _code_of_class: ClassVar[tuple[str, ...]] = ("",)

    @property
    def name(self) -> str:
        """Return the name that error messages and tables use."""
        return type(self).__name__

    def settings(self) -> dict[str, Any]:
        """Return what its verdicts depend on, by name: the arguments it was built with but :attr:`indifferent` ones.

        A subclass adds what it reads that no argument holds, such as the digest of a file.
        """
        given = {name: value for name, value in built_with(self).items() if name not in self.indifferent}
        read = {"special_tokens": self.special_tokens} if self.special_tokens != "drop" else {}
        return {name: value for name, value in given.items() if name != "special_tokens"} | read

    @cached_property
    def identity(self) -> str:
        """Return a short digest of all that its verdicts depend on, the same in every process."""
        about = Description()
        settings = about.of(self.settings())
        kinds = [kind._code_of_class for kind in type(self).__mro__ if issubclass(kind, Judge)]
        unknown = [*about.unknown, *(name for _, *names in kinds for name in names)]
        if unknown and self.version is None:
            log.warning(
                "judge %s: there is no telling %s from another, for want of its source: give the judge a version, and "
                "another one with every change",
                self.name,
                " and ".join(dict.fromkeys(unknown)),
            )
        codes = [code for code, *_ in kinds if code]
        return text_digest(type(self).__qualname__, settings, str(self.version), *codes)

    @property
    def bytes(self) -> float | None:
        """Return the memory it takes on the policy's device, in bytes: 0 without a model there, None if unknown."""
        return 0.0

    @cached_property
    def faults(self) -> Faults:
        """Return what it has failed on."""
        return Faults()

    def to(self, device: torch.device | str) -> None:
        """Move to the policy's device; a judge without a network has nothing to move."""
        del device

    def check(self) -> None:  # noqa: B027  (most judges have nothing to check)
        """Refuse what cannot work, before any weights load and anything is sampled."""

    @abstractmethod
    def compare(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        """Return P(first beats second) of each comparison, in [0, 1]; nan where the comparison is missing.

        Args:
            prompts: What the user asked.
            first: One response to each prompt.
            second: Another response to each prompt.
            records: The rows of the user's data that the prompts came from.
        """

    def verdict(self, prompts: Prompts, texts: Sequence[Sequence[str]], report: Report | None = None) -> Verdict:
        """Judge all pairs of every group.

        Args:
            prompts: The prompts.
            texts: K responses to each.
            report: Is told how many prompts were judged since it was last told.
        """
        size = len(texts[0])
        wins = torch.full((len(texts), size, size), 0.5)
        compared = torch.ones_like(wins, dtype=torch.bool)
        pairs = list(combinations(range(size), 2))
        for start in range(0, len(texts), self.prompts_at_once):
            rows = range(start, min(start + self.prompts_at_once, len(texts)))
            asked = [(b, i, j) for b in rows for i, j in pairs]
            probabilities = self._asked(
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
        """Return P(first beats second) for one pair a prompt, nan where the comparison is missing.

        Rewards already known are not computed again.
        """
        del first_rewards, second_rewards
        return torch.tensor(self._asked(prompts.texts, first, second, prompts.records))

    def _asked(self, prompts: list[str], first: list[str], second: list[str], records: list[Record]) -> list[float]:
        columns = (prompts, first, second, records)
        faults, patience = self.faults, self.patience
        return call_judge(
            self.name, self.compare, columns, low=0.0, high=1.0, missing=True, patience=patience, faults=faults
        )


def tell_missing(judge: Judge, missing: int, total: int, where: str) -> None:
    """Say in one line how many comparisons are missing, and why the first is; say nothing where none is.

    Args:
        judge: The judge that was asked.
        missing: Comparisons without an answer.
        total: All comparisons that it was asked about.
        where: What they were for, such as ``iteration 3``.
    """
    reason = judge.faults.take()
    if missing:
        because = f" ({reason})" if reason else ""
        log.warning("%s: judge %s left %d of %d comparisons missing%s", where, judge.name, missing, total, because)


def check_compared(judge: Judge, compared: Bool[Tensor, "batch group group"], where: str) -> None:
    """Tell what is missing of groups, as :func:`tell_missing` does.

    Raises:
        JudgeError: All comparisons are missing: nothing can be learnt from the groups, and they can be judged again.
    """
    pairs = torch.ones(compared.shape[-2:], dtype=torch.bool).triu(1)
    made = compared.cpu()[:, pairs]
    total, missing = made.numel(), int((~made).sum())
    if total and missing == total:
        reason = judge.faults.take() or "it said of none which is better"
        raise JudgeError(f"{where}: judge {judge.name} made none of {total} comparisons: {reason}")
    if total:
        tell_missing(judge, missing, total, where)
