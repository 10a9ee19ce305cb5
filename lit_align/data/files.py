"""A file of rows is read by `datasets`; what would be read wrongly, or fail in many lines, is refused in one."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet", ".txt": "text"}
"""These builders of `datasets` read the suffixes."""


def read_file(path: Path, streaming: bool = False) -> Any:
    """Return the rows of a file as a dataset of `datasets`; each line of a text file is a ``prompt``.

    Args:
        path: A file with one of the suffixes of :data:`BUILDERS`, in UTF-8, with or without a byte order mark.
        streaming: Read it row by row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is empty, not in UTF-8, or no file of its format; the message names the line where it can.
    """
    import datasets

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} (looked from {Path.cwd()})")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    options: dict[str, Any] = {} if path.suffix == ".parquet" else {"encoding": "utf-8-sig"}
    if path.suffix == ".csv":
        check_fields(path)
    with one_line_of(path):
        dataset = datasets.load_dataset(
            BUILDERS[path.suffix], data_files=str(path), split="train", streaming=streaming, **options
        )
    return dataset.rename_column("text", "prompt") if path.suffix == ".txt" else dataset


def check_fields(path: Path) -> None:
    """Refuse comma-separated values with rows of more or fewer fields than the header, which would be read shifted.

    Raises:
        ValueError: There is such a row, and the message names its line; or the file is not in UTF-8.
    """
    with one_line_of(path), path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        for row in rows:
            if row and len(row) != len(header):
                raise ValueError(
                    f"{path}, line {rows.line_num}: {len(row)} fields, where the header has {len(header)}: put a text "
                    "with commas or line breaks in double quotes"
                )


@contextmanager
def one_line_of(path: Path) -> Iterator[None]:
    """Raise a ``ValueError`` that says in one line why a file cannot be read, whatever a reader raises."""
    try:
        yield
    except Exception as error:  # readers fail in any way there is
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UnicodeDecodeError) or _is_utf16(path):
            raise ValueError(f"{path} is not in UTF-8: save it as UTF-8 text") from error
        if isinstance(error, ValueError) and str(path) in str(error):
            raise
        said = str(cause).splitlines() or [type(cause).__name__]
        raise ValueError(f"{path} is no readable {path.suffix} file: {said[0]}") from error


def _is_utf16(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"\xff\xfe", b"\xfe\xff")
