"""A file's bytes as UTF-8 text would have them: decompressed as its name says, recoded as its byte order mark says."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from rlrs.extras import install

CHUNK = 2**17
"""Bytes read at once."""

COMPRESSED = (".gz", ".zst", ".bz2", ".xz")

BYTE_ORDER_MARK = "\ufeff"

_RECODED = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class DamagedError(Exception):
    """A file that cannot be read to its end, or is not what its name says; the message says why."""


class Hash(Protocol):
    """What `hashlib` gives."""

    def update(self, data: bytes, /) -> None:
        """Take in the next bytes."""


def is_compressed(path: Path) -> bool:
    """Whether the name says so."""
    return path.name.lower().endswith(COMPRESSED)


def unpack(path: Path, digest: Hash | None = None) -> Iterator[bytes]:
    """A file's text as bytes of UTF-8, a bounded piece at a time; a file of another encoding without a mark as it is.

    Args:
        path: the file.
        digest: takes in the file's bytes as they are on disk.

    Raises:
        DamagedError: the compressed stream is broken, or text of UTF-16 or UTF-32 is.
        OSError: it cannot be read.
        ImportError: `.zst`, and the extra `datasets` is not installed.
    """
    chunks = _decompress(path, digest)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    encoding = next((encoding for mark, encoding in _RECODED if head.startswith(mark)), None)
    if encoding is not None:
        yield from _recode(head, chunks, encoding)
        return
    if head:
        yield head
    yield from chunks


def _recode(head: bytes, chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(head).encode()
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise DamagedError(f"not UTF-8 text, nor {encoding.upper()}, though it begins as such") from None


def _decompress(path: Path, digest: Hash | None) -> Iterator[bytes]:
    suffix = path.suffix.lower()
    with open(path, "rb", buffering=0) as raw:
        file: Any = raw if digest is None else _Hashed(raw, digest)
        try:
            if suffix == ".zst":
                yield from _decompress_zst(path, file)
            else:
                stream = _opened(file, suffix)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DamagedError(f"broken {suffix} file: {first_line(error)}") from None


def _opened(file: Any, suffix: str) -> Any:
    match suffix:
        case ".gz":
            return gzip.GzipFile(fileobj=file)
        case ".bz2":
            return bz2.BZ2File(file)
        case ".xz":
            return lzma.LZMAFile(file)
    return file


def _decompress_zst(path: Path, file: Any) -> Iterator[bytes]:
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
        raise DamagedError(f"broken .zst file: {first_line(error)}") from None
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


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
