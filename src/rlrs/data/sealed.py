"""Files of ours beside the tokens: records with a checksum, so that one that was changed is never taken for another."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Self, TypeVar

from rlrs.records import Record, RecordError, read_record, write_record

T = TypeVar("T", bound="Sealed")


class Sealed(Record):
    """A record that is written with a checksum of all its other fields."""

    checksum: str = ""
    """Of the content; empty in memory, before it is written."""

    def sealed(self) -> Self:
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self._sum()})

    def _sum(self) -> str:
        plain = self.to_plain()
        del plain["checksum"]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def write_sealed(path: Path, record: Sealed) -> None:
    """Write a record with its checksum, in one step."""
    write_record(path, record.sealed())


def read_sealed(path: Path, kind: type[T], remedy: str) -> T:
    """A record as it was written; see `read_record`.

    Raises:
        RecordError: the file is not such a record, or was changed after it was written; one line.
        OSError: the file cannot be read.
    """
    record = read_record(path, kind, remedy)
    if record.checksum != record._sum():
        raise RecordError(f"{path}: damaged: it is not as it was written (checksum {record.checksum!r:.24}); {remedy}")
    return record
