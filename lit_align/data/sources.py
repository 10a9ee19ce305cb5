"""Rows of the user's data, whatever their format, are read by `datasets` and checked here."""

import json
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lit_align.data.files import BUILDERS, read_file
from lit_align.data.messages import Conversation, conversation_of
from lit_align.data.records import settled
from lit_align.data.templates import content_id, question_id
from lit_align.types import Record, prompt_text
from lit_align.utils.digests import text_digest
from lit_align.utils.user_functions import directory_kept, import_function

log = logging.getLogger(__name__)


Columns = dict[str, str | None]
"""This maps our name of a column to the data's, such as ``{"prompt": "question"}``; None leaves our column out."""


@dataclass
class Source:
    """Says where prompts come from.

    Attributes:
        path: A ``.jsonl``, ``.json``, ``.csv``, ``.parquet`` or ``.txt`` file (a prompt a line), a local dataset
            folder, a Hugging Face dataset id, ``pool:NAME`` for a pool shipped with the package, or
            ``function:DOTTED.PATH`` for a function of your own that returns rows: a list, a dataset, or what yields
            them. Every process calls it, and a run that goes on: it must give the same rows in the same order.
        split: Split of a dataset id or folder.
        name: Configuration of a dataset id.
        revision: Branch, tag or commit of a dataset id.
        columns: Our name -> the data's, for this source alone, in place of ``data.columns``.
    """

    path: str
    split: str = "train"
    name: str | None = None
    revision: str | None = None
    columns: Columns | None = field(default=None, repr=False)  # runs of version 0.1 are known by the others


Rows = str | Source | Iterable[Record]
"""Rows come from a place, or in Python are given themselves: a list of dictionaries, or a dataset of `datasets`."""


def kept(rows: Rows | None) -> Rows | None:
    """Return the same rows in a form that can be read again: an iterator yields them once."""
    return list(rows) if isinstance(rows, Iterator) else rows


def spelled(rows: Rows) -> str:
    """Return a name of the place that rows are read from; rows of Python are named by content, a stream by class."""
    if isinstance(rows, Source) and rows.columns is not None:
        return f"{rows!r} {rows.columns}"
    if isinstance(rows, str | Source):
        return repr(rows)
    content = map(_as_text, rows) if isinstance(rows, Sized) else ()
    return f"{type(rows).__name__} {text_digest(*content)}"


def read(
    source: Rows,
    columns: Columns | None = None,
    streaming: bool = False,
    asks: tuple[str, ...] = ("prompt", "messages"),
) -> Any:
    """Return a dataset of `datasets` whose rows have a ``prompt`` or a ``messages`` column.

    Args:
        source: The place to read from; a string is its path.
        columns: Our name -> the data's name, such as ``{"prompt": "question"}``.
        streaming: Read row by row, for pools larger than memory.
        asks: Columns any of which holds what is asked.

    Raises:
        FileNotFoundError: There is no such file or shipped pool.
        ValueError: The format is unknown, or no column holds prompts.
    """
    source = Source(source) if isinstance(source, str) else source
    if isinstance(source, Source):
        origin, dataset = source.path, _load(source, streaming)
        columns = columns if source.columns is None else source.columns
    else:
        origin = f"the {type(source).__name__} of rows"
        dataset = _as_dataset(source, origin, streaming)
    for ours, theirs in (columns or {}).items():
        if theirs is None:
            dataset = dataset.remove_columns(ours) if ours in _columns(dataset) else dataset
            continue
        if theirs not in _columns(dataset):
            raise ValueError(f"data.columns: {origin} has no column {theirs!r}, only {sorted(_columns(dataset))}")
        dataset = dataset.rename_column(theirs, ours) if ours != theirs else dataset
    if not set(asks) & set(_columns(dataset)):
        raise ValueError(
            f"{origin} has neither a `prompt` nor a `messages` column, only {sorted(_columns(dataset))}: "
            "name it with data.columns, such as {prompt: question}"
        )
    return dataset


def checked(rows: Iterable[Record], origin: str) -> Iterator[Record]:
    """Yield each row as a record that asks something; the log says once where rows end with an assistant's message.

    Raises:
        ValueError: A prompt is empty, or its messages are no conversation; the message names the row.
    """
    for number, row in enumerate(rows):
        record = settled(row, origin, f"row {number}")
        messages = record.get("messages")
        empty = not messages if "prompt" not in record else not str(record["prompt"]).strip()
        conversation = _conversation(record, f"{origin}: row {number}") if messages else None
        if empty or (conversation and not conversation.says_something):
            raise ValueError(f"{origin}: the prompt of row {number} is empty; remove the row")
        if conversation and conversation.continues:
            _tell_continued(origin)
        yield record


def check_distinct(
    rows: Iterable[Record],
    origin: str,
    key: Callable[[Record], int] = content_id,
    heldout: Collection[int] = (),
) -> list[int]:
    """Return the keys of rows, in their order; refuse duplicates and what is held out.

    Args:
        rows: Read once, in order.
        origin: What messages call the rows.
        key: What no two of them may share.
        heldout: Question ids of held-out prompts.

    Raises:
        ValueError: There are no rows, two are the same, or one asks what is held out.
    """
    found: dict[int, int] = {}
    for number, record in enumerate(rows):
        check_not_heldout(record, f"{origin} too (row {number})", heldout)
        first = found.setdefault(key(record), number)
        if first != number:
            raise ValueError(f"{origin}: rows {first} and {number} both ask {_shown(record)}; remove one")
    if not found:
        raise ValueError(f"{origin} has no prompts")
    return list(found)


def check_not_heldout(record: Record, where: str, heldout: Collection[int]) -> None:
    """Refuse a record to train on whose question is held out; ``heldout`` are question ids."""
    if question_id(record) in heldout:
        raise ValueError(
            f"data.heldout: {_shown(record)} is in {where}; a win rate on prompts that were trained on means nothing: "
            "remove it from one of them"
        )


def _load(source: Source, streaming: bool) -> Any:
    import datasets

    datasets.disable_progress_bars()
    path = source.path
    if path.startswith("function:"):
        if streaming:
            return datasets.IterableDataset.from_generator(_made, gen_kwargs={"path": path})
        return _as_dataset(_made(path), path)
    if path.startswith("pool:"):
        path = str(files("lit_align.data") / "pools" / f"{path.removeprefix('pool:')}.jsonl")
        if not Path(path).is_file():
            raise FileNotFoundError(f"no pool {source.path} is shipped; there are {_shipped()}")
    suffix = Path(path).suffix
    if Path(path).is_dir():
        if (Path(path) / "state.json").is_file():
            saved = datasets.load_from_disk(path)
            return saved.to_iterable_dataset() if streaming else saved
        return datasets.load_dataset(path, source.name, split=source.split, streaming=streaming)
    if suffix in BUILDERS:
        return read_file(Path(path), streaming)
    if suffix or path.count("/") > 1:
        raise ValueError(f"{path}: unknown format; give {', '.join(BUILDERS)}, a dataset folder or a dataset id")
    return datasets.load_dataset(path, source.name, split=source.split, streaming=streaming, revision=source.revision)


def _made(path: str) -> Iterator[Record]:
    function = import_function(path.removeprefix("function:"), "data")
    try:
        with directory_kept():
            yield from _records(function())
    except Exception as error:  # code of the user's fails in any way there is
        raise ValueError(f"{path} raised {type(error).__name__}: {error}") from error


def _as_dataset(rows: Iterable[Record], origin: str, streaming: bool = False) -> Any:
    """Return rows of Python as `datasets` reads them from a file: a column has one type, and a row may lack it."""
    import datasets
    from pyarrow import ArrowInvalid, ArrowTypeError

    if isinstance(rows, datasets.IterableDataset) and streaming:
        return rows
    if isinstance(rows, datasets.Dataset):
        dataset = rows
    else:
        found = list(_records(rows))
        names = dict.fromkeys(name for row in found for name in row)
        try:
            dataset = datasets.Dataset.from_dict({name: [row.get(name) for row in found] for name in names})
        except (ArrowInvalid, ArrowTypeError) as error:
            raise ValueError(f"{origin}: a column has values of several types ({error})") from error
    return dataset.to_iterable_dataset() if streaming else dataset


def _records(rows: Iterable[Any]) -> Iterator[Record]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise TypeError(f"a row of data is a dictionary such as {{'prompt': 'Why?'}}, not {row!r}")
        yield dict(row)


def _as_text(row: Record) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _shipped() -> list[str]:
    return sorted(f"pool:{item.name.removesuffix('.jsonl')}" for item in (files("lit_align.data") / "pools").iterdir())


def _columns(dataset: Any) -> list[str]:
    """Return the column names; a stream that does not know them yet shows them in its first row."""
    return dataset.column_names or list(next(iter(dataset), {}))


def _conversation(record: Record, where: str) -> Conversation:
    try:
        return conversation_of(record)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


@cache
def _tell_continued(origin: str) -> None:
    log.warning("%s: there are rows that end with an assistant's message: responses continue it", origin)


def _shown(record: Record) -> str:
    text = repr(prompt_text(record))
    return text if len(text) <= 60 else text[:56] + "...'"
