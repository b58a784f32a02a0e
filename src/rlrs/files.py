"""Files that are either whole or not there: written beside their place, synced, renamed."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_OF_A_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Name this file in an OSError of a write that names none: of a full disk the system does not say which."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_A_WRITE:  # not a lost connection, say, which has no file
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
