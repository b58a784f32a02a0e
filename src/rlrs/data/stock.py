"""Taking stock: every file is read once before the first token is made.

It gives the sizes that the split needs, a hash of all text, and the name of everything that is damaged, while nothing
has been spent yet. Reading is many times faster than tokenizing, and a file that has not changed is not read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlrs.data.reading import DamagedError, is_compressed
from rlrs.data.sources import STDLIB, FilePart, Part, hash_order
from rlrs.files import write_atomic
from rlrs.settings import ConfigError, DataConfig

log = logging.getLogger("rlrs.data")

SAVE_EVERY = 20.0
"""Seconds between writes of what is known so far."""

SETTLED = 2_000_000_000
"""Nanoseconds: a file that changed this shortly before it was noted may change again within the clock's tick."""


@dataclass(frozen=True)
class Entry:
    """What is known of one part of the corpus.

    Args:
        name: of the part.
        digest: SHA-256 of the file, or of the text of a shard that is no file.
        bytes: of text, in UTF-8; None if it was not counted.
        documents: how many to take; None for all of an unknown number.
        damage: why it cannot be used; None if it can.
        bad_lines: lines of jsonl that hold no document.
        first_bad: the first of them, and why.
    """

    name: str
    digest: str = ""
    bytes: int | None = None
    documents: int | None = None
    damage: str | None = None
    bad_lines: int = 0
    first_bad: str | None = None


@dataclass
class Notes:
    """What an earlier run noted of files by name: size, time of last change, and more; on disk as notes.json.

    A file whose size and time are as noted is taken as unchanged, as by make and git.
    """

    path: Path | None = None
    known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Notes:
        """Notes of a file; none if there is none or it is damaged."""
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        return cls(path, known if isinstance(known, dict) else {})

    def get(self, name: str, stamp: tuple[int, int] | None) -> Any:
        """What was noted of a file in this state; None if nothing."""
        try:
            note = self.known[name]
            same = stamp is not None and note["stamp"] == list(stamp) and stamp[1] + SETTLED < note["noted"]
            return note["value"] if same else None
        except (KeyError, TypeError):
            return None

    def put(self, name: str, stamp: tuple[int, int] | None, value: Any) -> None:
        """Note something of a file in this state."""
        if stamp is not None:
            self.known[name] = {"stamp": list(stamp), "noted": time.time_ns(), "value": value}

    def save(self) -> None:
        """Write them down."""
        if self.path is not None and self.path.parent.is_dir():
            write_atomic(self.path, json.dumps(self.known) + "\n")


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
        left -= stocktaking.whole_files_within(whole, left)
    else:
        for part in whole:
            stocktaking.add(part)
    for number, part in enumerate(streams):
        if version is not None and left is None:
            stocktaking.entries[part.name] = Entry(part.name)
            continue
        limit = None if left is None else left // (len(streams) - number)
        taken = stocktaking.add(part, limit)
        left = None if left is None else left - taken
    return stocktaking.finish(parts, version)


class _Stocktaking:
    def __init__(self, config: DataConfig, notes: Notes) -> None:
        self.config, self.notes = config, notes
        self.entries: dict[str, Entry] = {}
        self.bad: list[tuple[Part, str]] = []
        self.lines: list[tuple[Part, Entry]] = []
        self.saved = time.monotonic()

    def add(self, part: Part, limit: int | None = None) -> int:
        """Use a part, or as many of its first documents as fit into a number of bytes; the bytes of text it gives."""
        entry = self.look(part, limit)
        if entry.damage is not None:
            self.bad.append((part, entry.damage))
            return 0
        if entry.bad_lines:
            self.lines.append((part, entry))
        if limit is not None and not entry.documents:
            return 0
        self.entries[part.name] = entry
        return entry.bytes or 0

    def whole_files_within(self, parts: Sequence[Part], limit: int) -> int:
        """Use whole files that together fit into a number of bytes, taken in hash order; their bytes."""
        filled = 0
        for part in sorted(parts, key=lambda part: hash_order(part.name)):
            stamp = part.stamp()
            assert isinstance(part, FilePart), "only files are one document"
            assert stamp is not None, "a file has a size"
            if filled + stamp[0] > limit:  # compressed or not, it holds more than that
                continue
            if is_compressed(part.path):
                size = self.look(part, None).bytes or 0
                if filled + size > limit:
                    continue
            filled += self.add(part)
        return filled

    def look(self, part: Part, limit: int | None) -> Entry:
        stamp = part.stamp()
        about = f"{part.name}|{self.config.text_field}|{'' if limit is None else limit}"
        known = self.notes.get(about, stamp)
        if known is not None:
            return Entry(**known)
        entry = _read(part, limit, empty_is_fine=self.config.source == STDLIB)
        if part.stamp() != stamp:
            raise ConfigError(f"{part.where}: changed while it was read; start again when nothing writes to it")
        self.notes.put(about, stamp, asdict(entry))
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
                raise ConfigError(f"data.max_bytes={self.config.max_bytes} is less than any document of data.source")
            raise ConfigError(
                f"data.source={_shown(self.config.source)}: the corpus is empty: {len(parts)} files without usable text"
            )
        digest = hashlib.sha256((version or "").encode())
        for entry in entries:
            digest.update(json.dumps([entry.name, entry.digest, entry.documents]).encode())
        return Stock(used, entries, skipped, digest.hexdigest()[:16])

    def _skipped(self) -> tuple[str, ...]:
        """Sentences on what is left out."""
        found = [f"{part.where}: {damage}" for part, damage in self.bad]
        found += [f"{part.where}, {entry.first_bad}" + _more(entry.bad_lines - 1, "line") for part, entry in self.lines]
        if found and self.config.damaged == "refuse":
            raise ConfigError(
                f"{found[0]}{_more(len(found) - 1, 'file')}; mend it, narrow data.source, or leave such out with "
                "data.damaged: skip"
            )
        for sentence in found:
            log.warning("left out: %s", sentence)
        named = [f"{part.name}: {damage}" for part, damage in self.bad]
        named += [f"{part.name}: {entry.bad_lines} lines, the first is {entry.first_bad}" for part, entry in self.lines]
        return tuple(named)


def _read(part: Part, limit: int | None, *, empty_is_fine: bool) -> Entry:
    """Read a part to its end, or up to a number of bytes of text."""
    digest = hashlib.sha256()
    size = documents = bad_lines = 0
    first_bad, whole = None, True

    def bad_line(number: int, why: str) -> None:
        nonlocal bad_lines, first_bad
        bad_lines, first_bad = bad_lines + 1, first_bad or f"line {number}: {why}"

    try:
        for text in part.texts(bad_line, digest if limit is None else None):
            data = text.encode()
            if limit is not None:
                if size + len(data) > limit:
                    whole = False
                    break
                digest.update(data + b"\xff")  # of what is taken; the file as a whole is not read
            size += len(data)
            documents += 1
    except DamagedError as error:
        return Entry(part.name, damage=str(error))
    except OSError as error:
        raise ConfigError(f"{part.where}: cannot be read: {error.strerror or error}") from None
    if size == 0 and bad_lines:
        return Entry(part.name, damage=f"no line holds a document; {first_bad}")
    if size == 0 and whole and not empty_is_fine:
        return Entry(part.name, damage="is empty")
    return Entry(
        part.name,
        digest.hexdigest(),
        size,
        1 if part.one_document else documents,
        bad_lines=bad_lines,
        first_bad=first_bad,
    )


def _more(count: int, what: str) -> str:
    return f" (and {count} more {what}{'s' if count > 1 else ''})" if count > 0 else ""


def _shown(source: str | Sequence[str]) -> str:
    return repr(source if isinstance(source, str) else list(source))
