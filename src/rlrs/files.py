"""Files that are either whole or not there: written beside their place, synced, renamed; and locks on folders."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

_OF_A_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
# What file systems answer that have no such thing: CIFS, FUSE, Lustre without -o flock, NFS without its lock manager.
_NOT_SUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF}
_NO_LOCKS = _NOT_SUPPORTED | {errno.ENOLCK}


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
    name = os.fsencode(path.name)
    if len(name) > 200:  # a file's own name may be as long as the system lets it
        name = hashlib.sha256(name).hexdigest().encode()
    temporary = path.with_name(f".{os.fsdecode(name)}.{os.getpid()}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # what went wrong first is what to say
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None  # nobody has heard of the other
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
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: str | Path, *, wait: bool = True, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock that one process has at a time; the system lets go of it when the process ends, however that is.

    Args:
        path: of the lock file, which is made if missing and stays; its folder must be there.
        wait: for the process that has it; if not, there is an error.
        waiting: called once if there is a wait.

    Raises:
        BlockingIOError: another process has it, and `wait` is False.
        OSError: the file cannot be opened, or its file system has no locks; it names the file and says what to do.
    """
    import fcntl  # of POSIX alone; everything else here works without

    with open(path, "ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise
                if waiting is not None:
                    waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
        except BlockingIOError:
            raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise OSError(
                error.errno,
                f"its file system has no file locks ({error.strerror}); name a folder on another one, or have it "
                "mounted with locks (Lustre: -o flock; NFS: a lock manager; CIFS: without nobrl)",
                str(path),
            ) from None
        yield


def cut_half_line(path: Path) -> None:
    """Cut off what a killed writer has left of a last line, so that the next one does not go on in it."""
    try:
        with open(path, "r+b") as file:
            size = file.seek(0, os.SEEK_END)
            place, tail = size, b""
            while place > 0 and b"\n" not in tail:
                place = max(0, place - 2**16)
                file.seek(place)
                tail = file.read(size - place)
            file.truncate(place + tail.rfind(b"\n") + 1)
    except FileNotFoundError:
        pass


def sqlite_read_only(path: Path) -> str:
    """URI by which SQLite reads a database that others may write, and writes nothing: in a read-only folder, too.

    With a write-ahead log SQLite needs its index, which is there; without one nobody is at work, and no lock is taken.

    >>> sqlite_read_only(Path("/runs/a b/trials.db"))
    'file:/runs/a%20b/trials.db?mode=ro&immutable=1'
    """
    log = path.with_name(f"{path.name}-wal")
    return f"file:{quote(str(path.resolve()))}?{'mode=ro&readonly_shm=1' if log.exists() else 'mode=ro&immutable=1'}"
