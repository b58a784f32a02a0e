"""Files as documents: text, jsonl and parquet, plain or compressed, a bounded piece at a time.

A text file is one document. A line of jsonl and a row of parquet are one each.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from rlrs.extras import install

CHUNK = 2**17
"""Bytes read at once."""

PIECE = 2**16
"""Characters of text handed on at once; a longer document comes in pieces (see `_cut`). The `tokenizers` library needs
a hundred bytes and more for each character that it is at work on, and its threads share pieces, not parts of one."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

BadLine = Callable[[int, str], None]
"""Is told of a line that holds no document (number from 1, why); raises `DamagedError` or not."""


class DamagedError(Exception):
    """A file that cannot be read to its end, or is not what its name says; the message says why."""


class Piece(NamedTuple):
    """A part of a document's text; `last` is true for its last part."""

    text: str
    last: bool


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""


def format_of(path: Path) -> Literal["text", "jsonl", "parquet"]:
    """Kind of a file by the end of its name; text, if it says nothing."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    if name.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    return "parquet" if name.endswith(".parquet") else "text"


def is_compressed(path: Path) -> bool:
    """Whether the name says so."""
    return path.name.lower().endswith(COMPRESSED)


def read_text(path: Path, digest: Hash | None = None) -> Iterator[str]:
    """The text of a file in pieces; nothing of an empty file.

    Args:
        path: the file.
        digest: takes in the file's bytes as they are on disk.

    Raises:
        DamagedError: not UTF-8 text, or the compressed stream is broken.
        OSError: it cannot be read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held = ""
    try:
        for chunk in _unpacked(path, digest):
            text = decoder.decode(chunk)
            if "\0" in text:  # decodes, but is no text
                raise DamagedError("not UTF-8 text")
            held += text
            while len(held) > PIECE:
                cut = _cut(held, 0)
                yield held[:cut]
                held = held[cut:]
        held += decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise DamagedError("not UTF-8 text") from None
    if held:
        yield held


def pieces_of(text: str) -> Iterator[Piece]:
    """A document that is in memory, in pieces; one empty piece of an empty one."""
    start = 0
    while len(text) - start > PIECE:
        end = _cut(text, start)
        yield Piece(text[start:end], last=False)
        start = end
    yield Piece(text[start:], last=True)


def read_jsonl(path: Path, field: str, bad_line: BadLine, digest: Hash | None = None) -> Iterator[str]:
    """The documents of a jsonl file; one without text (null) is an empty text.

    Raises:
        DamagedError: the compressed stream is broken, or by `bad_line`.
        OSError: it cannot be read.
    """
    for number, line in enumerate(_lines(_unpacked(path, digest)), start=1):
        if not line.strip():
            continue
        record = None
        try:
            record = json.loads(line)
            text = record[field]
        except UnicodeDecodeError:
            bad_line(number, "not UTF-8 text")
        except ValueError:
            bad_line(number, "not JSON")
        except (KeyError, TypeError, IndexError):
            has = f"it has {', '.join(map(repr, list(record)[:8]))}" if isinstance(record, dict) else "it is no object"
            bad_line(number, f"no field {field!r} (data.text_field); {has}")
        else:
            if text is None or isinstance(text, str):
                yield text or ""
            else:
                bad_line(number, f"the field {field!r} is {type(text).__name__}, not text")


def read_parquet(path: Path, field: str) -> Iterator[str]:
    """The documents of a parquet file; one without text (null) is an empty text.

    Raises:
        DamagedError: not a whole parquet file, or it has no such column of text.
        OSError: it cannot be read.
        ImportError: the extra `datasets` is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as parquet
    except ImportError:
        raise ImportError(f"{path}: parquet needs the library pyarrow: {install('datasets')}") from None
    try:
        # Without pre-buffering and with a small buffer, a row group of any size is read page by page.
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=CHUNK) as file:
            if field not in file.schema_arrow.names:
                has = ", ".join(map(repr, file.schema_arrow.names[:8]))
                raise DamagedError(f"no column {field!r} (data.text_field); it has {has}")
            kind = file.schema_arrow.field(field).type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise DamagedError(f"the column {field!r} (data.text_field) is {kind}, not text")
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for text in batch.column(0).to_pylist():
                    yield text or ""
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise DamagedError(f"not whole parquet: {_first_line(error)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedError(f"not whole parquet: {_first_line(error)}") from None  # arrow's own


def _cut(text: str, start: int) -> int:
    """Where the piece that begins at `start` ends: before its last single space, or else after its last line.

    Between a word and the space before the next one all common pre-tokenizers have a border (GPT-2's, GPT-4's, Llama's,
    white space), so that the tokens of the pieces are those of the whole text.
    """
    at = text.rfind(" ", start, start + PIECE)
    while at > start:
        if not text[at + 1].isspace():
            return at
        at = text.rfind(" ", start, at)
    last = text.rfind("\n", start, start + PIECE)
    return last + 1 if last >= start else start + PIECE


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []  # of a line whose end has not come yet
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        held.append(first)
        for line in more:
            yield b"".join(held)
            held = [line]
    yield b"".join(held)


def _unpacked(path: Path, digest: Hash | None) -> Iterator[bytes]:
    """A file's bytes, decompressed as its name says."""
    suffix = path.suffix.lower()
    with open(path, "rb", buffering=0) as raw:
        file: Any = raw if digest is None else _Hashed(raw, digest)
        try:
            if suffix == ".zst":
                yield from _unpack_zst(path, file)
            else:
                stream = _opened(file, suffix)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedError(f"broken {suffix} file: {_first_line(error)}") from None


def _opened(file: Any, suffix: str) -> Any:
    match suffix:
        case ".gz":
            return gzip.GzipFile(fileobj=file)
        case ".bz2":
            return bz2.BZ2File(file)
        case ".xz":
            return lzma.LZMAFile(file)
    return file


def _unpack_zst(path: Path, file: Any) -> Iterator[bytes]:
    """Frame after frame: the library's own stream reader takes a file that was cut short for whole."""
    try:
        import zstandard
    except ImportError:
        raise ImportError(f"{path}: .zst needs the library zstandard: {install('datasets')}") from None
    frame = None
    try:
        while chunk := file.read(CHUNK):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                if text := frame.decompress(chunk):
                    yield text
                chunk = frame.unused_data
                if frame.eof:
                    frame = None
    except zstandard.ZstdError as error:
        raise DamagedError(f"broken .zst file: {_first_line(error)}") from None
    if frame is not None:
        raise EOFError("it ends within a frame")


class _Hashed:
    """A raw file that hashes what is read from it, for those who only read forward."""

    def __init__(self, raw: Any, digest: Hash) -> None:
        self._raw, self._digest = raw, digest

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._digest.update(data)
        return data


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
