"""The file: appended to by any number of processes, one whole entry at a time.

An append locks the file, reads its last entry, writes one line behind it and syncs. A kill or a power cut leaves the
line whole, not there, or torn; a torn one was never acknowledged. The next append sets its bytes aside, in a file of
their own, and says so in the chain.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import pwd
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrs.audit.entries import LONGEST, NOTHING, AuditEntry, AuditError, entry_line, read_line
from rlrs.audit.entry_facts import ACTOR, checked
from rlrs.files import naming, open_atomic, sync_folder, write_atomic

if TYPE_CHECKING:
    from rlrs.audit.anchors import Anchor
    from rlrs.audit.tampering import TrailReport

FILE = "audit.jsonl"
PATIENCE = 60.0
"""Seconds that an append waits for the others; each takes milliseconds."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


def note(folder: str | Path, kind: str, /, **facts: Any) -> AuditEntry:
    """Append one entry to the audit trail of a study's or a run's folder.

    It changes nothing else: no random state, no other file. When it returns, the entry is on disk.

    Args:
        folder: where `audit.jsonl` is, or will be; it must exist.
        kind: `begun`, `data`, `ratios`, `alarm`, `decision`, `override`, `sign_off`, `ended`, `failed`, or one of your
            own that begins with `x-`. `begun` is written as `resumed` where the trail has entries already.
        facts: what is to be kept, JSON or what becomes it; `rlrs.audit.entry_facts.KINDS` has what a kind must have.
            Passwords in URLs, values of names such as `api_key`, and values of environment variables that hold
            secrets are left out.

    Raises:
        AuditError: the facts cannot be kept, or the trail is damaged.
        OSError: the file cannot be written; it names the file.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> entry = note(folder, "decision", decision="use", reason="0.1 nats better on 4 seeds")
    >>> entry.index, entry.kind, entry.facts["decision"]
    (0, 'decision', 'use')
    """
    return Trail(folder).append(kind, facts)


def digests(folder: str | Path, *names: str) -> dict[str, str]:
    """SHA-256 of files of a folder by name, for the fact `files`, which `verify` compares; missing ones are left out.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "ratios.yaml").write_text("schema: 1")
    >>> {name: digest[:8] for name, digest in digests(folder, "ratios.yaml", "results.json").items()}
    {'ratios.yaml': '325d061e'}
    """
    found = {}
    for name in names:
        try:
            with open(Path(folder) / name, "rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
    return found


class Trail:
    """The audit trail of a folder: append-only, each entry chained to the one before it by its hash.

    Args:
        folder: of a study or a run, or the file `audit.jsonl` itself. The file is made by the first append.

    >>> import tempfile
    >>> trail = Trail(tempfile.mkdtemp())
    >>> _ = trail.append("decision", {"decision": "go on", "reason": "the loss falls"})
    >>> _ = trail.append("override", {"what": "lr", "value": 0.003, "reason": "smaller batch"}, actor="ann")
    >>> [(entry.index, entry.kind) for entry in trail]
    [(0, 'decision'), (1, 'override')]
    >>> trail.verify().intact
    True
    """

    def __init__(self, folder: str | Path) -> None:
        given = Path(folder)
        self.folder = given.parent if given.name == FILE else given
        self.path = self.folder / FILE

    def append(self, kind: str, facts: Mapping[str, Any] | None = None, *, actor: str | None = None) -> AuditEntry:
        """Write one entry, synced; it is on disk when this returns.

        Args:
            kind: see `note`.
            facts: see `note`.
            actor: who; `RLRS_AUDIT_ACTOR`, or else the system's name of the user, if None.

        Raises:
            AuditError, OSError: as for `note`.

        >>> import tempfile
        >>> Trail(tempfile.mkdtemp()).append("x-lunch", {"minutes": 30}, actor="ann").actor
        'ann'
        """
        given, who = checked(kind, facts or {}), _actor(actor)
        while True:
            with naming(self.path), _locked(self.path) as descriptor:
                keep, line, tail = _end(descriptor, self.path)
                last = read_line(line, f"{self.path}, its last entry") if line else None
                closing = b""
                if tail and (whole := _linked(tail, last)) is not None:
                    last, closing = whole, b"\n"
                elif tail:
                    self._set_aside(descriptor, keep, tail, last, who)
                    continue  # the file is another now
                name = "resumed" if kind == "begun" and last else kind
                entry, written = _following(last, name, given, who)
                _write(descriptor, closing + written)
                if last is None:
                    sync_folder(self.folder)
                return entry

    def _set_aside(self, descriptor: int, keep: int, tail: bytes, last: AuditEntry | None, actor: str) -> None:
        """Put a torn end into a file of its own, and an entry that says so in its place, in one step."""
        digest = hashlib.sha256(tail).hexdigest()
        aside = self.folder / f"audit.torn-{last.index + 1 if last else 0}-{digest[:8]}"
        write_atomic(aside, tail)
        facts = checked("torn", {"file": aside.name, "bytes": len(tail), "sha256": digest})
        _, line = _following(last, "torn", facts, actor)
        with open_atomic(self.path) as file:
            done = 0
            while done < keep:
                piece = os.pread(descriptor, min(keep - done, 2**20), done)
                file.write(piece)
                done += len(piece)
            file.write(line)

    def lines(self) -> Iterator[bytes]:
        """The file's lines with their line breaks, at one moment; the last may lack it.

        Raises:
            AuditError: a line longer than an entry can be.
            OSError: the file is missing, or cannot be read.
        """
        with open(self.path, "rb") as file:
            size, number = _settled_size(file.fileno()), 0
            while size > 0:
                number += 1
                line = file.readline(min(size, LONGEST + 1))
                if len(line) > LONGEST:
                    raise AuditError(f"{self.path}, line {number}: longer than {LONGEST:,} bytes: not an audit trail")
                if not line:
                    return
                size -= len(line)
                yield line

    def __iter__(self) -> Iterator[AuditEntry]:
        """All whole entries, in order.

        Raises:
            AuditError: an entry was changed, or is none; a torn last line is passed over.
            OSError: the file is missing, or cannot be read.
        """
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield read_line(line.removesuffix(b"\n"), f"{self.path}, line {number}")
            except AuditError:
                if line.endswith(b"\n"):
                    raise

    def torn(self) -> int:
        """Bytes of a last line that is no whole entry: what a write that was cut off has left; 0 mostly.

        Raises:
            AuditError, OSError: as for `lines`.

        >>> import tempfile
        >>> trail = Trail(tempfile.mkdtemp())
        >>> _ = trail.append("x-lunch")
        >>> _ = trail.path.write_bytes(trail.path.read_bytes() + b'{"entry":{"act')
        >>> trail.torn()
        14
        """
        last = b""
        for line in self.lines():
            last = line
        try:
            read_line(last, "the end")
        except AuditError:
            return 0 if last.endswith(b"\n") else len(last)
        return 0

    def anchor(self) -> Anchor:
        """Length and head of the trail as it is; kept elsewhere, it shows later that nothing was cut or rewritten.

        Raises:
            AuditError, OSError: as for iteration.

        >>> import tempfile
        >>> trail = Trail(tempfile.mkdtemp())
        >>> entry = trail.append("x-lunch")
        >>> trail.anchor().length, trail.anchor().head == entry.hash
        (1, True)
        """
        from rlrs.audit.anchors import Anchor

        length, head = 0, NOTHING
        for entry in self:
            length, head = length + 1, entry.hash
        return Anchor(length=length, head=head)

    def verify(self, anchor: Anchor | None = None, keys: Sequence[str | Path] = ()) -> TrailReport:
        """Look for everything that is not as it was written, and name it.

        Args:
            anchor: what was kept elsewhere: with it, entries that are missing at the end are found too, and a trail
                that was rewritten whole.
            keys: files of public keys; each must have signed this trail, and what it signed must be there.

        Raises:
            AuditError: the file is no audit trail of this version, or a key or a signature cannot be read.
            OSError: a file is missing, or cannot be read.

        >>> import tempfile
        >>> trail = Trail(tempfile.mkdtemp())
        >>> _ = trail.append("decision", {"decision": "use", "reason": "better"})
        >>> kept = trail.anchor()
        >>> trail.verify(kept).intact
        True
        >>> _ = trail.path.write_bytes(trail.path.read_bytes().replace(b"better", b"faster"))
        >>> print(*trail.verify(kept).found)
        entry 0 (line 1): edited: its content does not have the hash that it was written with
        """
        from rlrs.audit.tampering import verify

        return verify(self.path, self.lines(), anchor, keys)


def _actor(given: str | None) -> str:
    actor, where = (given, "actor") if given is not None else (os.environ.get(ACTOR), ACTOR)
    if not actor:
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container's user may have none
            return f"uid {os.getuid()}"
    if len(actor) > 200 or not actor.isprintable():
        raise AuditError(f"{where} should be a name of at most 200 printable characters, not {actor[:60]!r}")
    return actor


def _following(last: AuditEntry | None, kind: str, facts: dict[str, Any], actor: str) -> tuple[AuditEntry, bytes]:
    return entry_line(
        actor=actor,
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        facts=facts,
        index=last.index + 1 if last else 0,
        kind=kind,
        previous=last.hash if last else NOTHING,
    )


def _linked(tail: bytes, last: AuditEntry | None) -> AuditEntry | None:
    """The entry of a last line that lacks its line break alone; None if more is missing."""
    try:
        entry = read_line(tail, "the end")
    except AuditError:
        return None
    return entry if entry.previous == (last.hash if last else NOTHING) else None


def _end(descriptor: int, path: Path) -> tuple[int, bytes, bytes]:
    """Length of a file up to its last line break, the last whole line, and what is behind it."""
    size, length = os.fstat(descriptor).st_size, 2**14
    while True:
        start = max(0, size - length)
        data = os.pread(descriptor, size - start, start)
        end = data.rfind(b"\n")
        before = data.rfind(b"\n", 0, end) if end >= 0 else -1
        if before >= 0 or start == 0:
            return start + end + 1, data[before + 1 : max(end, 0)], data[end + 1 :]
        if length > 2 * LONGEST:
            raise AuditError(f"{path}: its last line is longer than {LONGEST:,} bytes: not an audit trail")
        length *= 8


def _write(descriptor: int, data: bytes) -> None:
    """Append and sync; if the disk is full, as if nothing had been written."""
    before = os.fstat(descriptor).st_size
    try:
        done = 0
        while done < len(data):
            done += os.write(descriptor, data[done:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a file open for appending, alone; made if it is missing.

    The file itself is locked. Whoever repairs it puts another in its place, so who gets the lock looks whether it is
    still the one that the name stands for.
    """
    give_up = time.monotonic() + PATIENCE
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            opened = os.fstat(descriptor)
            if not stat.S_ISREG(opened.st_mode):
                raise AuditError(f"{path}: not a regular file")
            _lock(descriptor, path, give_up)
            try:
                now = os.stat(path)
            except FileNotFoundError:
                continue
            if (now.st_dev, now.st_ino) == (opened.st_dev, opened.st_ino):
                yield descriptor
                return
        finally:
            os.close(descriptor)  # which unlocks it


def _lock(descriptor: int, path: Path, give_up: float) -> None:
    pause = 0.0005
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > give_up:
                raise AuditError(f"{path}: locked by another process for {PATIENCE:.0f} seconds") from None
            time.sleep(pause)
            pause = min(2 * pause, 0.01)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise AuditError(
                f"{path}: its file system cannot lock files ({error.strerror}); keep the folder on one that can"
            ) from None


def _settled_size(descriptor: int) -> int:
    """Length of a file when no append is under way. What is there then stays as it is.

    Without locks, which the medium of an archive may not have, it is the length now.
    """
    give_up = time.monotonic() + 1
    while time.monotonic() < give_up:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            size = os.fstat(descriptor).st_size
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return size
        except BlockingIOError:
            time.sleep(0.001)
        except OSError:
            break
    return os.fstat(descriptor).st_size
