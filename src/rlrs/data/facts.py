"""data.json: what tokens were made from, their sizes and hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from rlrs.data.sealed import Sealed, read_sealed, write_sealed
from rlrs.data.shards import shard_names
from rlrs.records import Record, RecordError
from rlrs.records.frozen import check_version

FORMAT = 3
"""Version of the files that this code writes; others are made anew."""

FILE = "data.json"
GENERAL = "general"
"""Folder beside data.json of the general text, with a data.json of its own."""


class DataSummary(Record):
    """What a study's page and `TokenData.summary` say of the data."""

    source: str | tuple[str, ...] | None
    """As in the study; None in a folder that studies share."""
    files: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Of text, in UTF-8."""
    hash: str | None
    """Of tokenizer, tokens and sequence length; None in a folder that studies share."""
    vocab_size: int = Field(ge=1)
    train_tokens: int = Field(ge=0)
    valid_tokens: int = Field(ge=0)
    bytes_per_token: float = Field(ge=0)
    valid_bytes_per_token: float = Field(ge=0)
    documents: int = Field(ge=0)
    valid_documents: int = Field(ge=0)
    end_token: int = Field(ge=0)
    skipped: tuple[str, ...] = ()
    """Damaged or empty things that were left out, each a sentence."""


class Facts(Sealed):
    """Content of data.json."""

    format: Literal[3] = FORMAT
    settings: dict[str, Any]
    """What decides the tokens, with a hash of the text."""
    sequence_length: int | None = Field(ge=2)
    """Tokens T per sequence; None in a folder that studies share."""
    summary: DataSummary
    dtype: Literal["<u2", "<u4"]
    """Of the tokens on disk."""
    shard_tokens: int = Field(ge=1)
    """Tokens of each shard but the last of a stream."""
    sizes: dict[str, int]
    """Bytes of every file, by name."""
    sha256: dict[str, str]
    """Hash of every file, by name."""
    home: str | None = None
    """Folder of the files; None for that of data.json."""

    @model_validator(mode="after")
    def _same_files(self) -> Facts:
        sizes = {"tokenizer.json": self.sizes.get("tokenizer.json", -1)}
        for stream, tokens in (("train", self.summary.train_tokens), ("valid", self.summary.valid_tokens)):
            if tokens > self.shard_tokens * len(self.sizes):
                raise ValueError(f"sizes should name all shards of summary.{stream}_tokens")
            for name in shard_names(stream, tokens, self.shard_tokens):
                sizes[name] = min(tokens, self.shard_tokens) * int(self.dtype[-1])
                tokens -= self.shard_tokens
        if sizes != self.sizes or sizes.keys() != self.sha256.keys():
            raise ValueError(
                "sizes and sha256 should name tokenizer.json and all shards, with the bytes of their tokens"
            )
        return self

    def place(self, folder: Path) -> Path:
        """Folder of the tokens, where data.json is in `folder`."""
        return folder if self.home is None else Path(self.home)


def read_facts(folder: Path) -> Facts | None:
    """What data.json says of the tokens; None if there is none, or one of an earlier version.

    Raises:
        RecordError: it is damaged or of a later version, or a file of the tokens is not there or not as long as it
            says; one line.
    """
    path = folder / FILE
    remedy = "prepare the data again with rlrs.data.prepare"
    try:
        facts = read_sealed(path, Facts, remedy)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}") from None
    except RecordError:
        if (version := _version(path)) is None:
            raise
        check_version(path, {"format": version}, "format", FORMAT)
        if version < FORMAT:
            return None
        raise
    for name, size in facts.sizes.items():
        file = facts.place(folder) / name
        try:
            found = file.stat().st_size
        except OSError as error:
            raise RecordError(f"{file}: no whole prepared data: {error.strerror}; {remedy}") from None
        if found != size:
            raise RecordError(f"{file}: no whole prepared data: has {found} bytes, not {size}; {remedy}")
    return facts


def write_facts(folder: Path, facts: Facts) -> None:
    """Write data.json."""
    write_sealed(folder / FILE, facts)


def _version(path: Path) -> int | None:
    """What the file says of its version; None if that is nothing to go by."""
    try:
        plain = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    version = plain.get("format") if isinstance(plain, dict) else None
    return version if type(version) is int and version > 0 else None
