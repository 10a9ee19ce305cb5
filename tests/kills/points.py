"""Where a run can be killed: a function, in the n-th call of it, before or after; and half-way through a write.

A call is a number, and says nothing of what the run does by then. So every point also says where that is, and a process
that dies leaves word of where it was.
"""

import importlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_align import PairwiseFunction
from lit_align.utils import files
from tests.kills.places import Place, in_a_stage, leave_word, watch_stages


@dataclass(frozen=True)
class Point:
    """A call of a function, counted from 1 in the life of a process.

    Attributes:
        function: Module and name, ``module:Class.method``.
        call: Which call.
        after: After it returned, rather than before it begins.
        number: Of the signal that the process is sent.
        in_stages: Only calls inside a stage count; the proof of the model's sampling, before any, makes some too.
        place: Where the run is by then.
    """

    function: str
    call: int = 1
    after: bool = False
    number: int = signal.SIGKILL
    place: Place = field(kw_only=True, repr=False)
    in_stages: bool = field(default=False, kw_only=True)

    def arm(self) -> None:
        """Let this process be killed there."""
        watch_stages()
        owner, name = _owner(self.function)
        original, calls = getattr(owner, name), 0

        def deadly(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            counts = in_a_stage() or not self.in_stages
            calls += counts
            if counts and calls == self.call and not self.after:
                die(self.number)
            result = original(*args, **kwargs)
            if counts and calls == self.call and self.after:
                die(self.number)
            return result

        setattr(owner, name, deadly)


@dataclass(frozen=True)
class HalfWritten:
    """Half of the bytes of a file are written, the n-th whose name matches, and not one more.

    Attributes:
        name: Pattern of the final name.
        call: Which of those files.
        renamed: All bytes are written instead, and the process ends before it gives the file its name.
        place: Where the run is by then.
    """

    name: str
    call: int = 1
    renamed: bool = False
    place: Place = field(kw_only=True, repr=False)

    def arm(self) -> None:
        """Let this process be killed there."""
        watch_stages()
        original, calls = files.write_whole, 0

        def deadly(path: Path, write: Callable[..., object]) -> None:
            nonlocal calls
            calls += path.match(self.name)
            if calls < self.call or not path.match(self.name):
                return original(path, write)
            path.parent.mkdir(exist_ok=True)
            partial = path.with_name(f"{path.name}.partial")
            with partial.open("wb") as file:
                write(file)
            if not self.renamed:
                os.truncate(partial, partial.stat().st_size // 2)
            return die(signal.SIGKILL)

        for module in ("lit_align.utils.files", "lit_align.callbacks.checkpoints", "lit_align.data.rollout_store"):
            importlib.import_module(module).write_whole = deadly  # type: ignore[attr-defined]


def die(number: int) -> None:
    """The process leaves word of where it is and gets a signal, as it would from outside."""
    leave_word()
    os.kill(os.getpid(), number)


class Better(PairwiseFunction):
    """More words are better; two prompts at once, so that an iteration has several blocks."""

    prompts_at_once = 2

    def __init__(self) -> None:
        super().__init__("tests.kills.points.more_words")


def more_words(prompts: list[str], first: list[str], second: list[str], records: list[Any]) -> list[float]:
    """P(first beats second); remembers in the file of ``$ASKED`` what it was asked, and waits where ``$WAIT`` says."""
    if "WAIT" in os.environ:
        Path(os.environ["WAIT"]).touch()
        time.sleep(600)
    with Path(os.environ["ASKED"]).open("a") as file:
        file.writelines(f"{question!r}\n" for question in zip(prompts, first, second, strict=True))
    return [0.25 + 0.5 * (len(set(a.split())) > len(set(b.split()))) for a, b in zip(first, second, strict=True)]


def _owner(function: str) -> tuple[Any, str]:
    module, _, path = function.partition(":")
    *outer, name = path.split(".")
    owner = importlib.import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    return owner, name
