"""A row of data is settled once, when it is read: its values are plain, and one column says what is asked.

Records go to disk as JSON and come back after a restart. A value that JSON would change is changed here, at the
beginning, so that a judge sees the same before and after.
"""

import logging
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any

from lit_align.types import Record

log = logging.getLogger(__name__)


def settled(row: Mapping[str, Any], origin: str, name: str) -> Record:
    """Return a row with plain values, and either a ``prompt``, which is a text, or ``messages``.

    A ``prompt`` that is a list of messages becomes ``messages``, or the text of the one that there is. Where a row has
    both columns, ``prompt`` is asked and ``messages`` is left out, since they often hold the answer too.

    Args:
        row: The row as its file has it. A column whose value is None is missing.
        origin: What error messages call the data, such as ``data.train``.
        name: What they call the row, such as ``row 3``.

    Raises:
        ValueError: ``prompt`` is neither a text nor a list of messages.
    """
    record = {name: plain(value) for name, value in row.items() if value is not None}
    if "prompt" not in record:
        return record
    if "messages" in record:
        del record["messages"]
        _tell_left_out(origin)
    prompt = record["prompt"]
    if isinstance(row["prompt"], str | int | float | Decimal | date | time):
        return record | {"prompt": str(prompt)}
    if not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
        kind = type(row["prompt"]).__name__
        raise ValueError(
            f"{origin}: the prompt of {name} is a {kind}, neither a text nor a list of messages with role and "
            "content: name another column with data.columns, such as {prompt: question}"
        )
    del record["prompt"]
    return record | as_asked(prompt)


def as_asked(messages: list[Record]) -> Record:
    """Return a conversation as columns: a single text of the user's is a ``prompt``, any other ``messages``."""
    first = messages[0]
    alone = len(messages) == 1 and first.get("role") == "user" and isinstance(first.get("content"), str)
    return {"prompt": first["content"]} if alone else {"messages": messages}


def plain(value: Any) -> Any:
    """Return a value as JSON gives it back: a date as ISO text, an array as a list, anything unknown as its kind."""
    if hasattr(value, "tolist"):  # a number or an array of numpy
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime) and value.time() == time() and value.tzinfo is None:
        return value.date().isoformat()  # a file that has a date alone is read as its midnight
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return repr(value) if isinstance(value, bytes) else f"<{type(value).__name__}>"


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


@cache
def _tell_left_out(origin: str) -> None:
    log.warning(
        "%s has both `prompt` and `messages`: the prompt is asked, and the messages are left out. To ask the messages, "
        "leave out the prompt: data.columns {prompt: null}",
        origin,
    )
