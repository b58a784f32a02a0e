"""Tokens on disk: streams cut into shards of one size, that can be written on where a process was killed.

data.json            what the tokens were made from, sizes and hashes; written last. Of tokens that studies share,
                         each study has a data.json of its own, which names their folder
tokenizer.json       of the `tokenizers` library
train-00000.bin ...  tokens one after another, little-endian, all shards but the last of one size
valid-00000.bin ...
notes.json           sizes and times of files that were read or written: what need not be read again
progress.json        only while a preparation is under way
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rlrs.data.stock import Notes

SHARD_TOKENS = 2**27
"""Tokens per shard: 256 MiB of 16-bit tokens. Chosen here, not studied."""

STREAMS = ("train", "valid")
PARTIAL = ".partial"
"""End of the name of a shard that is being written."""


class ShardWriter:
    """Writes a stream of tokens as shards; begins where a position says, and forgets what was written after it.

    Args:
        folder: of the shards.
        stream: `train` or `valid`.
        dtype: of the tokens on disk.
        position: tokens to keep.
        shard_tokens: per shard.

    Raises:
        OSError: the shards hold fewer tokens than `position`, or the disk is full.
    """

    def __init__(self, folder: Path, stream: str, dtype: np.dtype[Any], position: int, shard_tokens: int) -> None:
        self.position = position
        self._folder, self._stream, self._dtype, self._shard_tokens = folder, stream, dtype, shard_tokens
        self._file: BinaryIO | None = None
        number, rest = divmod(position, shard_tokens)
        for path in folder.glob(f"{stream}-*.bin*"):
            if int(path.name.split("-")[1].split(".")[0]) > number:
                path.unlink()
        path = folder / shard_name(stream, number)
        partial = path.with_name(path.name + PARTIAL)
        if path.exists():
            os.replace(path, partial)
        if rest:
            self._file = open(partial, "r+b")  # noqa: SIM115 closed by `finish` or `close`
            if self._file.seek(0, os.SEEK_END) < rest * dtype.itemsize:
                raise OSError(f"{partial}: is shorter than progress.json says")
            self._file.truncate(rest * dtype.itemsize)
            self._file.seek(0, os.SEEK_END)
        else:
            partial.unlink(missing_ok=True)

    def write(self, tokens: NDArray[Any]) -> None:
        """Add tokens at the end of the stream."""
        tokens = np.asarray(tokens, dtype=self._dtype)
        while len(tokens):
            if self._file is None:
                self._file = open(self._path().with_name(self._path().name + PARTIAL), "wb")  # noqa: SIM115
            here = tokens[: self._shard_tokens - self.position % self._shard_tokens]
            self._file.write(here.data)
            tokens = tokens[len(here) :]
            full = self._path()
            self.position += len(here)
            if self.position % self._shard_tokens == 0:
                self._put(full)

    def sync(self) -> None:
        """Make what was written last."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """End the stream; its last shard takes its name."""
        if self._file is not None:
            self._put(self._path())

    def close(self) -> None:
        """Let go of the file; what is written so far can be gone on from."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, path: Path) -> None:
        self.sync()
        self.close()
        os.replace(path.with_name(path.name + PARTIAL), path)

    def _path(self) -> Path:
        return self._folder / shard_name(self._stream, self.position // self._shard_tokens)


def shard_name(stream: str, number: int) -> str:
    """File name of a shard."""
    return f"{stream}-{number:05}.bin"


def shard_names(stream: str, tokens: int, shard_tokens: int) -> list[str]:
    """File names of all shards of a stream of so many tokens."""
    return [shard_name(stream, number) for number in range(-(-tokens // shard_tokens))]


def open_shards(folder: Path, stream: str, tokens: int, shard_tokens: int, dtype: str) -> list[NDArray[Any]]:
    """A stream's shards, mapped into memory."""
    names = shard_names(stream, tokens, shard_tokens)
    return [np.memmap(folder / name, dtype=dtype, mode="r") for name in names]


def digests(folder: Path, names: Iterable[str], notes: Notes) -> dict[str, str]:
    """SHA-256 of files by name; one that is as it was noted is not read again."""
    found = {}
    for name in names:
        status = (folder / name).stat()
        stamp = (status.st_size, status.st_mtime_ns)
        digest = notes.get(name, stamp)
        if not isinstance(digest, str):
            with open(folder / name, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            notes.put(name, stamp, digest)
        found[name] = digest
    return found


def identity(digests: dict[str, str], sequence_length: int) -> str:
    """Hash of what a run trains on: tokenizer, tokens and sequence length, 12 hex digits."""
    parts = {"tokenizer.json": digests["tokenizer.json"]}
    for stream in STREAMS:
        own = [digest for name, digest in sorted(digests.items()) if name.startswith(f"{stream}-")]
        parts[f"{stream}.bin"] = own[0] if len(own) == 1 else hashlib.sha256("".join(own).encode()).hexdigest()
    text = json.dumps([1, parts, sequence_length], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def leftovers(folder: Path) -> Iterator[Path]:
    """Files of an earlier preparation, whole or not, of this version or of the first."""
    for name in ("data.json", "progress.json", "tokenizer.json", "train.bin", "valid.bin"):
        if (folder / name).exists():
            yield folder / name
    for stream in STREAMS:
        yield from folder.glob(f"{stream}-*.bin*")
