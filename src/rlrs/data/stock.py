"""Taking stock: every file is read once before the first token is made.

It gives the sizes that the split needs, a hash of all text, and the name of everything that is damaged, while nothing
has been spent yet. Reading is many times faster than tokenizing, and a file that has not changed is not read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlrs.data.reading import BadRecord, border
from rlrs.data.sealed import Sealed, read_sealed, write_sealed
from rlrs.data.sources import STDLIB, FilePart, Part, hash_order
from rlrs.data.unpacking import DamagedError, is_compressed
from rlrs.messages import plural, printable
from rlrs.records import Record, RecordError
from rlrs.settings import ConfigError, DataConfig

log = logging.getLogger("rlrs.data")

SAVE_EVERY = 20.0
"""Seconds between writes of what is known so far."""

SETTLED = 2_000_000_000
"""Nanoseconds: a file that changed this shortly before it was noted may change again within the clock's tick."""


class Entry(Record):
    """What is known of one part of the corpus."""

    name: str
    """Of the part."""
    digest: str = ""
    """SHA-256 of the file, or of the text that is taken of it."""
    bytes: int | None = None
    """Of the text that is taken, in UTF-8; None if it was not counted."""
    cut: bool = False
    """Whether that is less than all of it."""
    valid_bytes: int = 0
    """Of the documents that `is_valid` keeps for validation."""
    damage: str | None = None
    """Why it cannot be used; None if it can."""
    bad_records: int = 0
    """Lines of JSON lines, or elements of an array, that hold no document."""
    first_bad: str | None = None
    """The first of them, and why."""


class Note(Record):
    """What was noted of a file in one state."""

    stamp: tuple[int, int]
    """Size in bytes, and time of last change in nanoseconds."""
    noted: int
    """When, in nanoseconds."""
    value: str | Entry


class _File(Sealed):
    """Content of notes.json."""

    files: dict[str, Note]


@dataclass
class Notes:
    """What an earlier run noted of files by name: size, time of last change, and more; on disk as notes.json.

    A file whose size and time are as noted is taken as unchanged, as by make and git.
    """

    path: Path | None = None
    known: dict[str, Note] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Notes:
        """Notes of a file; none if there is none or, which is said, it is damaged."""
        try:
            return cls(path, dict(read_sealed(path, _File, "all files are read again").files))
        except FileNotFoundError:
            return cls(path)
        except (OSError, RecordError) as error:
            log.warning("%s", error)
            return cls(path)

    def get(self, name: str, stamp: tuple[int, int] | None) -> str | Entry | None:
        """What was noted of a file in this state; None if nothing."""
        note = self.known.get(name)
        same = note is not None and note.stamp == stamp and note.stamp[1] + SETTLED < note.noted
        return note.value if note is not None and same else None

    def put(self, name: str, stamp: tuple[int, int] | None, value: str | Entry) -> None:
        """Note something of a file in this state."""
        if stamp is not None:
            self.known[name] = Note(stamp=stamp, noted=time.time_ns(), value=value)

    def save(self) -> None:
        """Write them down."""
        if self.path is not None and self.path.parent.is_dir():
            write_sealed(self.path, _File(files=self.known))


@dataclass(frozen=True)
class Stock:
    """The parts that are used, and what is known of each.

    Args:
        parts: in order.
        entries: one per part.
        skipped: damaged or empty things that are left out, each a sentence.
        hash: of names, contents and what is taken of each.
    """

    parts: tuple[Part, ...]
    entries: tuple[Entry, ...]
    skipped: tuple[str, ...]
    hash: str

    @property
    def bytes(self) -> int | None:
        """Of all text; None if it was not counted."""
        sizes = [entry.bytes for entry in self.entries]
        return None if None in sizes else sum(size for size in sizes if size is not None)


def take_stock(parts: Sequence[Part], version: str | None, config: DataConfig, notes: Notes) -> Stock:
    """Read every part once, or as far as `max_bytes` goes.

    Args:
        parts: of the source, in order of name.
        version: fingerprint of a data set, which is then only read as far as there is a `max_bytes`.
        config: settings.
        notes: of earlier runs.

    Raises:
        ConfigError: something is damaged or empty and `damaged` is `refuse`, or there is no text at all.
    """
    stocktaking = _Stocktaking(config, notes)
    whole = [part for part in parts if part.one_document]
    streams = [part for part in parts if not part.one_document]
    left = config.max_bytes
    if left is not None:
        left -= stocktaking.files_within(whole, left)
    else:
        for part in whole:
            stocktaking.add(part)
    for number, part in enumerate(streams):
        if version is not None and left is None:
            stocktaking.entries[part.name] = Entry(name=part.name)
            continue
        limit = None if left is None else left // (len(streams) - number)
        taken = stocktaking.add(part, limit)
        left = None if left is None else left - taken
    return stocktaking.finish(parts, version)


def taken(part: Part, entry: Entry, bad_record: BadRecord) -> Iterator[str]:
    """The texts of a part as far as they are taken; see `Part.texts`."""
    if not entry.cut:
        yield from part.texts(bad_record)
        return
    left = entry.bytes or 0
    for text in part.texts(bad_record):
        data = text.encode()
        if len(data) >= left:
            if left:
                yield data[:left].decode()
            return
        left -= len(data)
        yield text


class _Stocktaking:
    def __init__(self, config: DataConfig, notes: Notes) -> None:
        self.config, self.notes = config, notes
        self.entries: dict[str, Entry] = {}
        self.bad: list[tuple[Part, str]] = []
        self.records: list[tuple[Part, Entry]] = []
        self.saved = time.monotonic()

    def add(self, part: Part, limit: int | None = None) -> int:
        """Use a part, or as much of its beginning as fits into a number of bytes; the bytes of text it gives."""
        entry = self.look(part, limit)
        if entry.damage is not None:
            self.bad.append((part, entry.damage))
            return 0
        if entry.bad_records:
            self.records.append((part, entry))
        if limit is not None and not entry.bytes:
            return 0
        self.entries[part.name] = entry
        return entry.bytes or 0

    def files_within(self, parts: Sequence[Part], limit: int) -> int:
        """Use whole files that together fit into a number of bytes, taken in hash order; their bytes.

        Where they leave a fifth of it or more, the beginning of the first file that did not fit fills it up.
        """
        filled = 0
        first_too_large: Part | None = None
        for part in sorted(parts, key=lambda part: hash_order(part.name)):
            stamp = part.stamp()
            assert isinstance(part, FilePart), "only files are one document"
            assert stamp is not None, "a file has a size"
            # Compressed or not, it holds at least about as many bytes as on disk.
            size = stamp[0]
            if filled + size <= limit and is_compressed(part.path):
                size = self.look(part, None).bytes or 0
            if filled + size > limit:
                first_too_large = first_too_large or part
                continue
            filled += self.add(part)
        if first_too_large is not None and limit - filled >= limit / 5:
            filled += self.add(first_too_large, limit - filled)
        return filled

    def look(self, part: Part, limit: int | None) -> Entry:
        stamp = part.stamp()
        config = self.config
        about = json.dumps([part.name, config.format, config.text_field, config.valid_fraction, limit])
        known = self.notes.get(about, stamp)
        if isinstance(known, Entry):
            return known
        entry = _read(part, limit, config)
        if part.stamp() != stamp:
            raise ConfigError(f"{part.where}: changed while it was read; start again when nothing writes to it")
        self.notes.put(about, stamp, entry)
        if time.monotonic() - self.saved > SAVE_EVERY:
            if self.notes.path is not None:
                self.notes.path.parent.mkdir(parents=True, exist_ok=True)
            self.notes.save()
            self.saved = time.monotonic()
        return entry

    def finish(self, parts: Sequence[Part], version: str | None) -> Stock:
        skipped = self._skipped()
        used = tuple(part for part in parts if part.name in self.entries)
        entries = tuple(self.entries[part.name] for part in used)
        known = [entry.bytes for entry in entries if entry.bytes is not None]
        if not entries or (len(known) == len(entries) and not sum(known)):
            if self.config.max_bytes is not None and not self.bad:
                raise ConfigError(f"data.max_bytes={self.config.max_bytes} is less than any character of data.source")
            raise ConfigError(
                f"data.source={_shown(self.config.source)}: the corpus is empty: {plural(len(parts), 'file')} without "
                "usable text"
            )
        digest = hashlib.sha256((version or "").encode())
        for entry in entries:
            digest.update(json.dumps([entry.name, entry.digest, entry.bytes if entry.cut else None]).encode())
        return Stock(used, entries, skipped, digest.hexdigest()[:16])

    def _skipped(self) -> tuple[str, ...]:
        """Sentences on what is left out."""
        found = [f"{part.where}: {damage}" for part, damage in self.bad]
        found += [
            f"{part.where}, {entry.first_bad}" + _more(entry.bad_records - 1, _kind(entry))
            for part, entry in self.records
        ]
        if found and self.config.damaged == "refuse":
            raise ConfigError(
                f"{found[0]}{_more(len(found) - 1, 'file')}; mend it, narrow data.source, or leave such out with "
                "data.damaged: skip"
            )
        for sentence in found:
            log.warning("left out: %s", sentence)
        named = [f"{printable(part.name)}: {damage}" for part, damage in self.bad]
        named += [
            f"{printable(part.name)}: {entry.bad_records} {_kind(entry)}s, the first is {entry.first_bad}"
            for part, entry in self.records
        ]
        return tuple(named)


def _read(part: Part, limit: int | None, config: DataConfig) -> Entry:
    """Read a part to its end, or up to a number of bytes of text."""
    digest = hashlib.sha256()
    size = valid_bytes = bad_records = 0
    first_bad, cut = None, False

    def bad_record(where: str, why: str) -> None:
        nonlocal bad_records, first_bad
        bad_records, first_bad = bad_records + 1, first_bad or f"{where}: {why}"

    try:
        for text in part.texts(bad_record, digest if limit is None else None):
            data = text.encode()
            if limit is not None:
                if size + len(data) > limit:
                    cut = True
                    if part.one_document or size < limit / 2:  # of many documents, a part of one only where it must be
                        data = data[: border(data, (limit - size) * 9 // 10, limit - size)]
                    else:
                        data = b""
                digest.update(data + b"\xff")  # of what is taken; the file as a whole is not read
            size += len(data)
            if not part.one_document and data and is_valid(data, config.valid_fraction):
                valid_bytes += len(data)
            if cut:
                break
    except DamagedError as error:
        return Entry(name=part.name, damage=str(error))
    except OSError as error:
        raise ConfigError(f"{part.where}: cannot be read: {error.strerror or error}") from None
    if size == 0 and bad_records:
        return Entry(name=part.name, damage=f"no {_record_kind(first_bad)} holds a document; {first_bad}")
    if size == 0 and not cut and config.source != STDLIB:  # there, an empty __init__.py is no damage
        return Entry(name=part.name, damage="is empty")
    return Entry(
        name=part.name,
        digest=digest.hexdigest(),
        bytes=size,
        cut=cut,
        valid_bytes=valid_bytes,
        bad_records=bad_records,
        first_bad=first_bad,
    )


def is_valid(text: bytes, valid_fraction: float) -> bool:
    """Whether a document is kept for validation: by its text in UTF-8 alone."""
    return text_key(text) < valid_fraction * 2**64


def text_key(text: bytes) -> int:
    """The first 64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(text).digest()[:8])


def _kind(entry: Entry) -> str:
    return _record_kind(entry.first_bad)


def _record_kind(where: str | None) -> str:
    """What a bad record is: a line or an element."""
    return (where or "line").partition(" ")[0]


def _more(count: int, what: str) -> str:
    return f" (and {count} more {what}{'s' if count > 1 else ''})" if count > 0 else ""


def _shown(source: str | Sequence[str]) -> str:
    return repr(source if isinstance(source, str) else list(source))
