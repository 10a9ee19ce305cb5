"""A judge on another machine is asked about the first responses while the last are sampled."""

import logging
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from lit_align.judges.base import Judge
from lit_align.types import Prompts, Responses

log = logging.getLogger(__name__)

_Question = tuple[Prompts, list[list[str]]]


class Ahead:
    """Asks a judge that remembers its answers about responses as they come, in a thread of its own.

    Nothing is decided here: the iteration finds the answers when it judges, and then retries a question that failed.

    Args:
        judge: Any judge; one that does not remember is not asked.
        text: Returns responses as text.
    """

    def __init__(self, judge: Judge | None, text: Callable[[Responses], list[list[str]]]) -> None:
        self.judge = judge if judge is not None and judge.remembers else None
        self.text = text
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._thread: Thread | None = None

    def __call__(self, responses: Responses) -> None:
        """Ask about these groups, and return at once."""
        if self.judge is None or responses.group_size < 2:
            return
        if self._thread is None:
            # A run that is stopped does not wait for a judge, so the thread is a daemon.
            self._thread = Thread(target=self._ask_all, args=(self.judge,), daemon=True)
            self._thread.start()
        self._questions.put((responses.prompts, self.text(responses)))

    def wait(self) -> None:
        """Wait until all that was asked is answered or has failed."""
        if self._thread is not None and self.judge is not None:
            self._questions.put(None)
            self._thread.join()
            self._thread = None
            self.judge.faults.take()  # what failed is retried later, and reported then

    def _ask_all(self, judge: Judge) -> None:
        while (question := self._questions.get()) is not None:
            try:
                prompts, texts = question
                judge.verdict(prompts, texts)
            except Exception as error:
                log.info("a judge that was asked ahead failed (%s: %s)", type(error).__name__, error)
                return
