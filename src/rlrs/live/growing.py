"""Files that grow: whole new lines each time one looks, and whether a process holds a lock. Nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

MOST = 4 * 2**20
"""Bytes that are read of a file in one look, and the longest line. Chosen here."""
_MARK = 256
"""Bytes before the place that was read to, by which a file is known again."""


class GrowingFile:
    """A file of lines that others append to; each look gives the whole lines that came since the one before.

    A last line without its line break waits until it has one. A file that was cut back or replaced begins again.

    Args:
        path: of the file, which need not be there.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> file = GrowingFile(path)
    >>> file.look()
    []
    >>> _ = path.write_text("one\\ntw")
    >>> file.look(), file.half
    ([b'one'], 2)
    >>> _ = path.write_text("one\\ntwo\\n")
    >>> file.look(), file.half
    ([b'two'], 0)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarted = False
        """Whether the last look began again: what was read before is no more."""
        self.there = False
        self.lines = 0
        """Lines read so far."""
        self.left = 0
        """Bytes of whole lines, at most, that the last look did not come to."""
        self.half = 0
        """Bytes of a last line without its line break."""
        self.modified = 0.0
        """When the file was last written, seconds since the epoch."""
        self._place, self._mark = 0, b""
        self._skipping = False  # inside a line that is too long

    @property
    def share(self) -> float:
        """How much of the file was read, of 1."""
        whole = self._place + self.left
        return self._place / whole if whole else 1.0

    def look(self) -> list[bytes]:
        """The new whole lines, without their line breaks; none where there is no file.

        Raises:
            OSError: the file cannot be read.
            ValueError: a line that is longer than a look may be; it is left out, and the next look goes on behind it.
        """
        try:
            file = self.path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            self.restarted = self._place > 0
            self._place, self._mark, self.lines, self.left, self.half = 0, b"", 0, 0, 0
            self.there = self._skipping = False
            return []
        with file:
            status = os.fstat(file.fileno())
            self.there, self.modified = True, status.st_mtime
            file.seek(self._place - len(self._mark))
            self.restarted = status.st_size < self._place or file.read(len(self._mark)) != self._mark
            if self.restarted:
                self._place, self._mark, self.lines, self._skipping = 0, b"", 0, False
            file.seek(self._place)
            data = file.read(MOST)
        end, begun = data.rfind(b"\n") + 1, self._skipping
        too_long = not end and len(data) == MOST
        if too_long:
            end, self._skipping = len(data), True
        self._place += end
        self._mark = (self._mark + data[:end])[-_MARK:]
        rest = max(0, status.st_size - self._place)
        self.left, self.half = (rest, 0) if len(data) == MOST else (0, len(data) - end)
        if too_long:
            if begun:
                return []
            raise ValueError(f"{self.path}, line {self.lines + 1}: longer than {MOST:,} bytes; it is left out")
        lines = data[:end].split(b"\n")[:-1]
        if begun and lines:
            lines[0], self._skipping = b"", False  # the end of it; what it was counts as a line
        self.lines += len(lines)
        return lines


def stamp(*paths: Path) -> tuple[tuple[int, int] | None, ...]:
    """By which one knows that files have changed: last write and size of each, None where it is missing."""
    found = []
    for path in paths:
        try:
            status = path.stat()
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return tuple(found)


def last_written(*paths: Path) -> float:
    """When the last of these was written, seconds since the epoch; 0 where none is there."""
    return max((of[0] / 1e9 for of in stamp(*paths) if of is not None), default=0.0)


def is_held(lock: Path) -> bool:
    """Whether a process of this machine holds a lock file, as far as Linux says (`/proc/locks`).

    The lock itself is not tried: who tries one has it for a moment, and a study that begins just then would be refused.
    """
    try:
        status = lock.stat()
        table = Path("/proc/locks").read_text()
    except OSError:
        return False
    device = status.st_dev
    name = f"{os.major(device):02x}:{os.minor(device):02x}:{status.st_ino}"
    return any(words[1] == "FLOCK" and name in words for line in table.splitlines() if len(words := line.split()) > 5)
