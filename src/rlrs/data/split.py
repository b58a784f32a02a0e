"""Which text is kept for validation.

Text files: whole files by share of bytes, in the order of the hash of their names. Documents of the other formats: each
by the hash of its text, so that the same document is on the same side wherever it stands, twice too. Where that misses
the share by more than a fifth (few, or large), the end of one file or document fills it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from rlrs.data.reading import Piece, borders, split_pieces
from rlrs.data.sources import Part, hash_order
from rlrs.data.stock import Entry, Stock, is_valid, taken, text_key
from rlrs.data.unpacking import DamagedError
from rlrs.settings import DataConfig

NEAR = 5
"""A split that misses the share by less than one in so many is taken as it is."""

LARGEST = 2**16
"""Documents that are weighed one by one where hashes alone miss the share: the largest ones."""

Key = TypeVar("Key", str, int)


@dataclass(frozen=True)
class Labelled:
    """A piece of a document, and where it goes.

    Args:
        text: of the piece.
        valid: whether it is for validation.
        last: whether an end of text comes after it.
        cut: whether that is because the document is cut there, and goes on on the other side.
    """

    text: str
    valid: bool
    last: bool
    cut: bool = False


@dataclass(frozen=True)
class Split:
    """What is for validation.

    Args:
        valid: names of whole files.
        cut: name of a file whose end is for validation, and the byte of its text at which that begins.
        weighed: hashes of documents that do not go by their hash alone.
        valid_documents: those of them that are for validation.
        cut_document: hash of a document whose end is for validation, and the byte at which that begins.
    """

    valid: frozenset[str]
    cut: tuple[str, int] | None
    weighed: frozenset[int] = frozenset()
    valid_documents: frozenset[int] = frozenset()
    cut_document: tuple[int, int] | None = None


def split_corpus(stock: Stock, config: DataConfig) -> Split:
    """Choose what fills the share of the bytes that is kept for validation.

    Text files in hash order: each that still fits goes there, so that a file more or less moves few others. Where that
    fills less than four fifths of the share (a corpus of few, large files), the end of the largest other file fills the
    rest, from the start of a line on, or else of a word or a character. Documents of the other formats go by their
    hash; where that misses the share by more than a fifth, the largest of them are chosen as files are.
    """
    known = list(zip(stock.parts, stock.entries, strict=True))
    files = {part.name: (part, entry) for part, entry in known if part.one_document and part.valid is None}
    sizes = {name: entry.bytes or 0 for name, (_, entry) in files.items()}
    valid, cut = _choose(sizes, config.valid_fraction * sum(sizes.values()), hash_order)
    if cut is not None:
        name, most = cut
        part, entry = files[name]
        cut = name, _border(taken(part, entry, _refuse), most, sizes[name])
    return Split(valid, cut, **_split_documents(known, config))


def labelled(part: Part, entry: Entry, split: Split, config: DataConfig) -> Iterator[Labelled]:
    """All pieces of a part, as far as it is taken, with where each goes.

    Raises:
        DamagedError: it cannot be read to the end; or a record holds no document and `damaged` is `refuse`.
    """
    texts = taken(part, entry, _refuse if config.damaged == "refuse" else _leave_out)
    if part.one_document:
        if split.cut is not None and split.cut[0] == part.name:
            yield from _halves(texts, split.cut[1])
        else:
            valid = part.name in split.valid if part.valid is None else part.valid
            yield from _document(texts, valid)
        return
    for text in texts:
        if not text:  # what says nothing leaves no trace
            continue
        valid = part.valid
        if valid is None:
            data = text.encode()
            valid = is_valid(data, config.valid_fraction)
            if split.weighed and (key := text_key(data)) in split.weighed:
                valid = key in split.valid_documents
                if split.cut_document is not None and key == split.cut_document[0]:
                    yield from _halves((piece.text for piece in split_pieces(text)), split.cut_document[1])
                    continue
        # A conversation is never cut.
        for piece in [Piece(text, last=True)] if config.format == "chat" else split_pieces(text):
            yield Labelled(piece.text, valid, piece.last)


def _split_documents(known: Iterable[tuple[Part, Entry]], config: DataConfig) -> dict[str, Any]:
    """Fields of `Split` for documents; none where their hashes alone come near the share, or sizes are unknown."""
    streams = [(part, entry) for part, entry in known if not part.one_document and part.valid is None]
    share = config.valid_fraction * sum(entry.bytes or 0 for _, entry in streams)
    filled = sum(entry.valid_bytes for _, entry in streams)
    if (
        config.format == "chat"
        or any(entry.bytes is None for _, entry in streams)
        or abs(filled - share) <= share / NEAR
    ):
        return {}
    largest: list[tuple[int, int]] = []
    for part, entry in streams:
        for text in taken(part, entry, _leave_out):
            data = text.encode()
            if data:
                heapq.heappush(largest, (len(data), text_key(data)))
            if len(largest) > LARGEST:
                heapq.heappop(largest)
    sizes: dict[int, int] = {}  # of all copies together
    for size, key in largest:
        sizes[key] = sizes.get(key, 0) + size
    share -= filled - sum(size for key, size in sizes.items() if key < config.valid_fraction * 2**64)
    valid, cut = _choose(sizes, share, lambda key: key)
    if cut is not None:
        key, most = cut
        size = max(size for size, other in largest if other == key)
        text = next(
            text
            for part, entry in streams
            for text in taken(part, entry, _leave_out)
            if len(text.encode()) == size and text_key(text.encode()) == key
        )
        cut = key, _border(iter([text]), size - (sizes[key] - most) * size // sizes[key], size)
    return {"weighed": frozenset(sizes), "valid_documents": valid, "cut_document": cut}


def _choose(
    sizes: dict[Key, int], share: float, order: Callable[[Key], Any]
) -> tuple[frozenset[Key], tuple[Key, int] | None]:
    """What fits whole into a share of bytes, in order; and what to cut, at which byte, where that leaves too much."""
    chosen: set[Key] = set()
    filled = 0
    for key in sorted(sizes, key=order):
        if filled + sizes[key] <= share:
            chosen.add(key)
            filled += sizes[key]
    if share <= 0 or filled >= share - share / NEAR:
        return frozenset(chosen), None
    largest = max((key for key in sizes if key not in chosen), key=lambda key: sizes[key])
    return frozenset(chosen), (largest, sizes[largest] - round(share - filled))


def _document(texts: Iterator[str], valid: bool) -> Iterator[Labelled]:
    held = next(texts, "")
    for text in texts:
        yield Labelled(held, valid, last=False)
        held = text
    yield Labelled(held, valid, last=True)


def _halves(texts: Iterator[str], start: int) -> Iterator[Labelled]:
    """A text as two documents, before and from a byte of it."""
    done = 0
    held: Labelled | None = None
    for text in texts:
        data = text.encode()
        before = min(max(start - done, 0), len(data))
        done += len(data)
        for half, valid in ((data[:before], False), (data[before:], True)):
            if half:
                if held is not None:
                    border = held.valid != valid
                    yield Labelled(held.text, held.valid, last=border, cut=border)
                held = Labelled(half.decode(), valid, last=True)
    assert held is not None, "a text that is cut is not empty"
    yield held


def _border(texts: Iterator[str], most: int, size: int) -> int:
    """A byte of a text, `most` at most and little less, to cut it at: a line's start, or else a space, a character."""
    least = most - (size - most) // (2 * NEAR)
    line = space = character = -1
    done = 0
    for text in texts:
        data = text.encode()
        if done + len(data) >= least:
            found = borders(data, max(least - done, 0), min(most - done, len(data)))
            line, space, character = (
                done + at if at >= 0 else best for at, best in zip(found, (line, space, character), strict=True)
            )
        done += len(data)
        if done >= most:
            break
    return next((at for at in (line, space) if at >= max(least, 0)), character)


def _refuse(where: str, why: str) -> None:
    raise DamagedError(f"{where}: {why}")


def _leave_out(where: str, why: str) -> None:
    pass
