"""Answers that were paid for once: a file of JSON lines that only grows and survives whatever ends a run."""

import json
from pathlib import Path
from threading import Lock


class AnswerCache:
    """Key -> answer, on disk as each answer comes in.

    Args:
        path: The file, made when the first answer is kept; None remembers for the life of the process only.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._answers: dict[str, str] | None = None
        self._lock = Lock()

    def get(self, key: str) -> str | None:
        """The answer, if there is one."""
        with self._lock:
            return self._known().get(key)

    def put(self, key: str, answer: str) -> None:
        """Keep an answer; safe from several threads."""
        with self._lock:
            self._known()[key] = answer
            if self.path is not None:
                # One write a line, appended: processes that share the file do not tear each other's lines.
                with self.path.open("a") as file:
                    file.write(json.dumps({"key": key, "answer": answer}) + "\n")

    def _known(self) -> dict[str, str]:
        if self._answers is None:
            self._answers = {} if self.path is None else _read(self.path)
        return self._answers


def _read(path: Path) -> dict[str, str]:
    """All whole lines; the end of a file that a kill cut short is closed, so that the next line stands alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return {}
    text = path.read_text()
    if text and not text.endswith("\n"):
        with path.open("a") as file:
            file.write("\n")
    answers = {}
    for line in text.splitlines():
        try:
            row = json.loads(line)
            answers[row["key"]] = row["answer"]
        except (ValueError, KeyError, TypeError):
            continue
    return answers
