"""The stages of an iteration have a clock and progress bars: sample, judge, score, train, evaluate."""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm
from typing_extensions import override

from lit_align.utils.out_of_memory import give_back

Advance = Callable[..., None]
"""``advance(prompts, tokens=0)`` says that so many more prompts, and tokens, are done."""


class Stages:
    """Times every stage and shows a bar while it lasts.

    Args:
        visible: Show bars on standard error.
        long: Seconds after which a stage hands the memory it has freed to the system as it ends, >= 0; a shorter one
            leaves nothing behind that is worth the call.
    """

    def __init__(self, visible: bool = True, long: float = 1.0) -> None:
        self.visible = visible
        self.long = long
        self.prefix = ""
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens: dict[str, int] = defaultdict(int)

    @contextmanager
    def stage(self, name: str, total: int, label: str | None = None) -> Iterator[Advance]:
        """Enter a stage of ``total`` prompts; its time counts, under its name, even if it fails.

        ``label`` is what the bar says, if not the name.
        """
        start = time.perf_counter()
        tokens = 0
        bar = tqdm(
            total=total,
            desc=f"{self.prefix}{label or name}",
            unit="prompt",
            disable=not self.visible,
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
        )

        def advance(prompts: int, drawn: int = 0) -> None:
            nonlocal tokens
            tokens += drawn
            self.tokens[name] += drawn
            if tokens:
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - start):.0f} tokens/s", refresh=False)
            bar.update(prompts)

        try:
            with bar:
                yield advance
        finally:
            seconds = time.perf_counter() - start
            self.seconds[name] += seconds
            if seconds > self.long:
                give_back()

    def take(self, *names: str) -> tuple[dict[str, float], dict[str, int]]:
        """Return the seconds and tokens of each of these stages, by default of all, since it was last taken."""
        names = names or tuple(self.seconds)
        seconds = {name: self.seconds.pop(name) for name in names if name in self.seconds}
        return seconds, {name: self.tokens.pop(name) for name in names if name in self.tokens}


class Relay(Stages):
    """Stands for stages inside a stage: no bars and no clock of their own; what is sampled advances the outer one."""

    def __init__(self, advance: Advance) -> None:
        super().__init__(visible=False)
        self._advance = advance

    @contextmanager
    @override
    def stage(self, name: str, total: int, label: str | None = None) -> Iterator[Advance]:
        del total, label
        yield self._advance if name == "sample" else _ignore


def _ignore(prompts: int, tokens: int = 0) -> None:
    del prompts, tokens
