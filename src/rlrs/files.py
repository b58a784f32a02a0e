"""Files that are either whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Give an OSError that names no file this one's name: of a write to a full disk the system does not say where."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def open_atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; it takes the place of `path` when the block ends well.

    A reader sees the old content or the new, never a part. If the block raises, `path` is left as it was.

    Raises:
        OSError: the folder does not exist, is not writable, or the disk is full.
    """
    path = Path(path)
    # With the process in its name: two processes that write the same file do not mix their bytes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_atomic(path: str | Path, data: str | bytes) -> None:
    """Replace the content of `path` by `data` (text as UTF-8) in one step; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can sync a folder."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
