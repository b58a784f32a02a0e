"""Finds what is not as it was written, and names it: which entry, which line, what happened.

A line is *sound* if its hash is its content's. Among the sound lines, the entry of each index is the one that the next
entry names; the longest run of lines that are in order is in place, and what stands elsewhere was moved. Lines that are
not sound, or lose their index to another, are matched with the entries that are missing where they stand: one that
fills a gap was edited, one too many was inserted.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

from rlrs.audit.entries import NOTHING, AuditEntry, AuditError, LaterFormatError, may_be_torn, read_line

if TYPE_CHECKING:
    from rlrs.audit.anchors import Anchor

Kind = Literal[
    "edited",
    "replaced",
    "inserted",
    "duplicated",
    "reordered",
    "removed",
    "truncated",
    "rewritten",
    "signature",
    "file",
]


@dataclass(frozen=True)
class Tampering:
    """One thing that is not as it was written.

    >>> print(Tampering("removed", "they are not in the file", entry=3, last=5))
    entries 3 to 5: removed: they are not in the file
    """

    kind: Kind
    what: str
    """In words."""
    entry: int | None = None
    """Index of the (first) entry that it is about."""
    last: int | None = None
    """Index of the last, where there are several."""
    line: int | None = None
    """Of the file, from 1."""

    def __str__(self) -> str:
        where = []
        if self.entry is not None:
            several = self.last is not None and self.last > self.entry
            where.append(f"entries {self.entry} to {self.last}" if several else f"entry {self.entry}")
        if self.line is not None:
            where.append(f"(line {self.line})" if where else f"line {self.line}")
        return ": ".join([*([" ".join(where)] if where else []), self.kind, self.what])


@dataclass(frozen=True)
class TrailReport:
    """What was looked at, and what is wrong with it.

    >>> TrailReport(entries=2, head="ab" * 32, found=(), notes=()).intact
    True
    """

    entries: int
    """Sound entries, each index once."""
    head: str
    """Hash of the last of them."""
    found: tuple[Tampering, ...]
    notes: tuple[str, ...]
    """What is no tampering, and worth knowing."""

    @property
    def intact(self) -> bool:
        """Whether nothing was found."""
        return not self.found


@dataclass(frozen=True, slots=True, order=True)
class _Line:
    number: int
    index: int  # -1 if it is not sound
    previous: str
    hash: str


@dataclass
class _Scan:
    lines: list[_Line] = field(default_factory=list)
    torn: int = 0  # bytes of a last line that is the beginning of an entry
    unbroken: int | None = None  # index of a whole last entry that lacks its line break
    aside: list[AuditEntry] = field(default_factory=list)  # entries that say that a torn end was set aside
    files: dict[str, tuple[int, str]] = field(default_factory=dict)  # name -> the last entry that states it, digest


def verify(path: Path, lines: Iterable[bytes], anchor: Anchor | None, keys: Sequence[str | Path]) -> TrailReport:
    """See `rlrs.audit.Trail.verify`; `lines` are those of the file `path`."""
    scan = _scanned(path, lines)
    anchors = [("the anchor", anchor)] if anchor is not None else []
    found, notes = _signed(path.parent, keys, anchors)
    chain, in_place, strays = _sorted_out(scan.lines, {anchor.head for _, anchor in anchors}, found)
    _misplaced(scan, chain, in_place, strays, anchors, found)
    _broken_links(chain, found)
    for name, held in anchors:
        last = chain.get(held.length - 1)
        if last is not None and last.hash != held.head:
            what = f"it is not the entry that {name} states: it, or the trail up to it, was written anew"
            found.append(Tampering("rewritten", what, entry=last.index, line=last.number))
    _changed_files(path.parent, scan.files, found)
    if scan.torn:
        notes.append(
            f"{scan.torn} bytes at the end are the beginning of an entry: a write that was killed, or a cut; "
            "an anchor tells which. The next append sets them aside"
        )
    if scan.unbroken is not None:
        notes.append(f"entry {scan.unbroken} lacks its line break: a write that was killed, or a cut")
    notes += [_set_aside(path.parent, entry) for entry in scan.aside]
    length = max(chain, default=-1) + 1
    if not length:
        notes.append("the trail has no entries")
    return TrailReport(len(chain), chain[length - 1].hash if length else NOTHING, tuple(found), tuple(notes))


def _scanned(path: Path, lines: Iterable[bytes]) -> _Scan:
    scan = _Scan()
    for number, raw in enumerate(lines, start=1):
        line = raw.removesuffix(b"\n")
        try:
            entry = read_line(line, f"{path}, line {number}")
        except LaterFormatError:
            raise
        except AuditError:
            if line is raw and may_be_torn(line):
                scan.torn = len(line)
            else:
                scan.lines.append(_Line(number, -1, "", ""))
            continue
        scan.lines.append(_Line(number, entry.index, entry.previous, entry.hash))
        if line is raw:
            scan.unbroken = entry.index
        if entry.kind == "torn":
            scan.aside.append(entry)
        scan.files |= _stated_files(entry)
    return scan


def _set_aside(folder: Path, entry: AuditEntry) -> str:
    """What a write that was cut off has left, which the entry after it speaks of."""
    name, size = str(entry.facts.get("file")), entry.facts.get("bytes")
    said = f"entry {entry.index}: before it a write was cut off: {size} bytes, half an entry, are in {name}"
    try:
        digest = hashlib.sha256((folder / PurePath(name).name).read_bytes()).hexdigest()
    except OSError:
        return f"{said}, which cannot be read now"
    return said if digest == entry.facts.get("sha256") else f"{said}, which is another now"


def _stated_files(entry: AuditEntry) -> dict[str, tuple[int, str]]:
    files = entry.facts.get("files")
    if not isinstance(files, Mapping):
        return {}
    return {name: (entry.index, digest) for name, digest in files.items() if isinstance(digest, str)}


def _sorted_out(
    lines: Sequence[_Line], heads: set[str], found: list[Tampering]
) -> tuple[dict[int, _Line], list[_Line], list[_Line]]:
    """The line of each index; those of them that are in order; and those that are no entry of this trail."""
    copies: dict[str, list[_Line]] = defaultdict(list)
    before: dict[int, str] = {}
    for line, above in zip(lines, [None, *lines], strict=False):
        before[line.number] = above.hash if above else NOTHING
        if line.index >= 0:
            copies[line.hash].append(line)
    named = heads | {line.previous for line in lines if line.index >= 0}
    claims: dict[int, list[_Line]] = defaultdict(list)
    for group in copies.values():
        kept = next((line for line in group if before[line.number] == line.previous), group[0])
        claims[kept.index].append(kept)
        for line in group:
            if line is not kept:
                what = f"line {kept.number} is the same entry"
                found.append(Tampering("duplicated", what, entry=line.index, line=line.number))
    chain: dict[int, _Line] = {}
    for index, group in claims.items():
        linked = [line for line in group if line.hash in named] or [line for line in group if line.previous in copies]
        chain[index] = (linked or group)[0]
    in_order = sorted(chain.values())
    standing = set(_longest_rise([line.index for line in in_order]))
    in_place = []
    for line in in_order:
        if line.index in standing:
            in_place.append(line)
        elif not _known_to_neighbours(line, chain):
            del chain[line.index]
        else:
            above = max((index for index in standing if index < line.index), default=None)
            place = f"it belongs behind entry {above}" if above is not None else "it belongs to the beginning"
            found.append(Tampering("reordered", place, entry=line.index, line=line.number))
    settled = {line.number for line in chain.values()}
    settled |= {line.number for group in copies.values() if len(group) > 1 for line in group}
    return chain, in_place, [line for line in lines if line.number not in settled]


def _known_to_neighbours(line: _Line, chain: Mapping[int, _Line]) -> bool:
    before, after = chain.get(line.index - 1), chain.get(line.index + 1)
    behind = line.previous == before.hash if before else line.index == 0 and line.previous == NOTHING
    return behind or (after is not None and after.previous == line.hash)


def _longest_rise(values: Sequence[int]) -> Iterator[int]:
    """The longest strictly rising run of some numbers, all of them different, others left out; the last one first."""
    tops: list[int] = []
    places: list[int] = []
    before: list[int] = []
    for place, value in enumerate(values):
        length = bisect_left(tops, value)
        tops[length : length + 1] = [value]
        places[length : length + 1] = [place]
        before.append(places[length - 1] if length else -1)
    place = places[-1] if places else -1
    while place >= 0:
        yield values[place]
        place = before[place]


def _misplaced(
    scan: _Scan,
    chain: Mapping[int, _Line],
    in_place: Sequence[_Line],
    strays: Sequence[_Line],
    anchors: Iterable[tuple[str, Anchor]],
    found: list[Tampering],
) -> None:
    """Matches entries that are missing with lines that are none, place by place."""
    numbers, indexes = [line.number for line in in_place], [line.index for line in in_place]
    missing: dict[int, list[int]] = defaultdict(list)  # after the n-th line in place: indexes, at most 1,000 of a gap
    gaps: dict[int, list[tuple[int, int]]] = defaultdict(list)
    known = [-1, *sorted(chain)]
    for low, high in pairwise(known):
        if high - low > 1:
            place = bisect_right(indexes, low)
            gaps[place].append((low + 1, high - 1))
            missing[place] += range(low + 1, min(high, low + 1001))
    lines: dict[int, list[_Line]] = defaultdict(list)
    for line in strays:
        lines[bisect_right(numbers, line.number)].append(line)
    end, promised = known[-1] + 1, max((anchor.length for _, anchor in anchors), default=0)
    at_end = lines.pop(len(in_place), []) if not gaps.get(len(in_place)) else []
    for place in sorted(gaps.keys() | lines.keys()):
        _match(gaps[place], missing[place], lines[place], found)
    for offset, line in enumerate(at_end):
        found.append(_edited(end + offset, line))
    if (left := end + len(at_end)) < promised:
        name = next(name for name, anchor in anchors if anchor.length == promised)
        what = f"{name} states {promised} entries" + (", and the line at the end is cut off" if scan.torn else "")
        found.append(Tampering("truncated", what, entry=left, last=promised - 1))
    if scan.unbroken is not None and scan.unbroken < promised:
        found.append(Tampering("truncated", "the line break at its end is missing", entry=scan.unbroken))


def _match(
    gaps: Sequence[tuple[int, int]], missing: Sequence[int], lines: Sequence[_Line], found: list[Tampering]
) -> None:
    if not lines:
        for low, high in gaps:
            found.append(Tampering("removed", "not in the file", entry=low, last=high))
    elif not gaps:
        found.extend(Tampering("inserted", "it is no entry of this trail", line=line.number) for line in lines)
    elif len(missing) == len(lines):
        found.extend(_edited(index, line) for index, line in zip(missing, lines, strict=True))
    else:
        what = f"{len(lines)} lines from line {lines[0].number} on are no entries of this trail"
        what = what if len(lines) > 1 else "the line there is no entry of this trail"
        found.append(Tampering("edited", what, entry=gaps[0][0], last=gaps[-1][1], line=lines[0].number))


def _edited(index: int, line: _Line) -> Tampering:
    what = "its content does not have the hash that it was written with"
    if line.index >= 0:
        what = f"in its place stands another, which calls itself entry {line.index}"
    return Tampering("edited", what, entry=index, line=line.number)


def _broken_links(chain: Mapping[int, _Line], found: list[Tampering]) -> None:
    """Entries that are sound, and not the ones that their neighbours know."""
    broken = [
        index - 1
        for index, line in sorted(chain.items())
        if (index - 1 in chain and chain[index - 1].hash != line.previous) or (index == 0 and line.previous != NOTHING)
    ]
    runs: list[list[int]] = []
    for link in broken:
        if runs and runs[-1][-1] == link - 1:
            runs[-1].append(link)
        else:
            runs.append([link])
    for run in runs:
        # Who rewrites one entry breaks the link behind it; the one before it too, if they change what it points at.
        first, last = (run[0], run[0]) if len(run) == 1 and run[0] >= 0 else (run[0] + 1, max(run[-1], 0))
        what = "it is not the entry that the next one was written behind"
        if len(run) == 1 and first + 2 not in chain:
            what += "; or the next one, the last, was changed"
        found.append(Tampering("replaced", what, entry=first, last=last, line=chain[first].number))


def _signed(
    folder: Path, keys: Sequence[str | Path], anchors: list[tuple[str, Anchor]]
) -> tuple[list[Tampering], list[str]]:
    """Checks the signatures beside a trail; right ones are anchors."""
    from rlrs.audit.anchors import SIGNATURES, public_key, signatures

    found, notes = [], []
    wanted = {public_key(path): str(path) for path in keys}
    by = set()
    for number, signature in enumerate(signatures(folder), start=1):
        try:
            right = signature.is_right()
        except ImportError as error:
            if keys:
                raise
            notes.append(f"{SIGNATURES} was not looked at: {error}")
            break
        if not right:
            what = f"line {number} of {SIGNATURES} is not signed by the key that it names"
            found.append(Tampering("signature", what, entry=signature.anchor.length - 1))
            continue
        by.add(signature.key)
        anchors.append((f"the signature on line {number} of {SIGNATURES}", signature.anchor))
        known = wanted.get(signature.key, f"a key that no --key names ({signature.key})")
        notes.append(f"signed up to entry {signature.anchor.length - 1} by {known}")
    for key, path in wanted.items():
        if key not in by:
            found.append(Tampering("signature", f"{SIGNATURES} has no right signature by {path}"))
    return found, notes


def _changed_files(folder: Path, files: Mapping[str, tuple[int, str]], found: list[Tampering]) -> None:
    for name, (index, digest) in files.items():
        path = folder / name
        if PurePath(name).name != name:
            continue  # of another folder
        try:
            with open(path, "rb") as file:
                now = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            found.append(Tampering("file", f"{name}, which it states, is missing", entry=index))
            continue
        if now != digest:
            what = f"{name} is not what it was then: edited, or its study was killed before it could say so"
            found.append(Tampering("file", what, entry=index))
