"""Files are written whole or not at all, so that what a killed run leaves behind can be trusted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its final name, flush it to disk, and rename it: a kill leaves the file before it, or none.

    Args:
        path: Final name; replaced if it exists, its folder made if there is none.
        write: Writes the content to the open file it is given.

    Raises:
        OSError: There is no room, or no right to write; the file before it is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # a signal leaves nothing behind either
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text, as UTF-8, whole or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def replace_link(link: Path, target: Path) -> None:
    """Let a link point to a file beside it, at once and by its name alone, so that their folder can be moved.

    A link that exists is replaced; a system without links has none, or the old one.
    """
    partial = link.with_name(f"{link.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        partial.symlink_to(target.name)
    except OSError:
        return
    os.replace(partial, link)


def _sync(folder: Path) -> None:
    """Sync a folder, without which a rename is not on disk; where none can be opened, the system sees to it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
