"""Which text is kept for validation.

Text files: whole files by share of bytes, in the order of the hash of their names. Documents of jsonl, parquet and data
sets: each by the hash of its text, so that the same document is on the same side wherever it stands, twice too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from rlrs.data.reading import DamagedError, pieces_of
from rlrs.data.sources import Part, hash_order
from rlrs.data.stock import Entry, Stock
from rlrs.settings import DataConfig


@dataclass(frozen=True)
class Labelled:
    """A piece of a document, and where it goes; `last` is true for the document's last piece."""

    text: str
    valid: bool
    last: bool


@dataclass(frozen=True)
class Split:
    """Which text files are for validation.

    Args:
        valid: names of whole files.
        cut: name of a file whose end is for validation, and the byte of its text at which that begins.
    """

    valid: frozenset[str]
    cut: tuple[str, int] | None


def split_files(stock: Stock, valid_fraction: float) -> Split:
    """Choose whole text files that fill the share of the bytes that is kept for validation.

    In hash order, each file that still fits goes there, so that a file more or less moves few others. Where that fills
    less than half of the share (a corpus of few, large files), the end of the largest file, from the start of a line
    on, fills the rest.
    """
    sizes = {
        part.name: entry.bytes or 0
        for part, entry in zip(stock.parts, stock.entries, strict=True)
        if part.one_document and part.valid is None
    }
    share = valid_fraction * sum(sizes.values())
    chosen: set[str] = set()
    filled = 0
    for name in sorted(sizes, key=hash_order):
        if filled + sizes[name] <= share:
            chosen.add(name)
            filled += sizes[name]
    cut = None
    if filled < share / 2:
        largest = max((name for name in sizes if name not in chosen), key=lambda name: sizes[name])
        part = next(part for part in stock.parts if part.name == largest)
        start = _line_before(part, sizes[largest] - int(share - filled))
        cut = (largest, start) if start else None
    return Split(frozenset(chosen), cut)


def labelled(part: Part, entry: Entry, split: Split, config: DataConfig) -> Iterator[Labelled]:
    """All pieces of a part, as far as it is taken, with where each goes.

    Raises:
        DamagedError: it cannot be read to the end; or a line holds no document and `damaged` is `refuse`.
    """
    bad_line = _refuse if config.damaged == "refuse" else _leave_out
    if part.one_document:
        if split.cut is not None and split.cut[0] == part.name:
            yield from _cut(part, split.cut[1])
        else:
            valid = part.name in split.valid if part.valid is None else part.valid
            yield from _document(part.texts(bad_line), valid)
        return
    for number, text in enumerate(part.texts(bad_line)):
        if number == entry.documents:
            return
        if text:  # what says nothing leaves no trace
            valid = is_valid(text, config.valid_fraction) if part.valid is None else part.valid
            for piece in pieces_of(text):
                yield Labelled(piece.text, valid, piece.last)


def is_valid(text: str, valid_fraction: float) -> bool:
    """Whether a document is kept for validation: by its text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) < valid_fraction * 2**64


def _document(texts: Iterator[str], valid: bool) -> Iterator[Labelled]:
    held = next(texts, "")
    for text in texts:
        yield Labelled(held, valid, last=False)
        held = text
    yield Labelled(held, valid, last=True)


def _cut(part: Part, start: int) -> Iterator[Labelled]:
    """A file as two documents, before and from a byte of its text."""
    done = 0
    held: Labelled | None = None
    for text in part.texts(_refuse):
        data = text.encode()
        before = min(max(start - done, 0), len(data))
        done += len(data)
        for half, valid in ((data[:before], False), (data[before:], True)):
            if half:
                if held is not None:
                    yield Labelled(held.text, held.valid, last=held.valid != valid)
                held = Labelled(half.decode(), valid, last=True)
    assert held is not None, "a file that is cut is not empty"
    yield held


def _line_before(part: Part, limit: int) -> int:
    """The last byte of a file's text, `limit` at most, at which a line begins."""
    start = done = 0
    for text in part.texts(_refuse):
        data = text.encode()
        end = data.rfind(b"\n", 0, limit - done)
        if end >= 0:
            start = done + end + 1
        done += len(data)
        if done >= limit:
            break
    return start


def _refuse(number: int, why: str) -> None:
    raise DamagedError(f"line {number}: {why}")


def _leave_out(number: int, why: str) -> None:
    pass
