"""A record in a JSON file that is taken only as it was written: with the checksum of its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from rlrs.files import write_atomic
from rlrs.records.frozen import Record, RecordError, check_version, first_problem, read_plain
from rlrs.records.results import checksum

R = TypeVar("R", bound=Record)


def write_checked(path: Path, record: Record) -> None:
    """Write a record in one step, with its checksum.

    Args:
        path: of the file.
        record: with a field `schema`, where its file has versions.
    """
    plain = record.model_dump(mode="json", by_alias=True)
    plain["checksum"] = checksum(plain)
    write_atomic(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def read_checked(path: Path, kind: type[R], schema: int | None, what: str, remedy: str) -> R:
    """A record from a file that `write_checked` wrote.

    Args:
        path: of the file.
        kind: of the record.
        schema: the one that is read; None for a file that has none, and in older versions no checksum either.
        what: the file is, for messages.
        remedy: what to do where it is damaged, as the end of a sentence.

    Raises:
        RecordError: the file is damaged, was changed, or is of another version; one line with file and place.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        plain = read_plain(data)
        if schema is not None:
            check_version(path, plain, "schema", schema)
        if not isinstance(plain, dict) or (schema is not None and plain.get("schema") != schema):
            version = "" if schema is None else f" of schema {schema}"
            raise RecordError(f"{path}: is no {what}{version}; {remedy}")
        stored = plain.pop("checksum", None)
        record = kind.model_validate(plain)
    except ValidationError as error:
        raise RecordError(f"{path}: damaged: {first_problem(error)}; {remedy}") from None
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(f"{path}: damaged: {error}; {remedy}") from None
    if stored != checksum(plain) and (stored is not None or schema is not None):
        raise RecordError(f"{path}: does not go with its checksum: it was changed after it was written; {remedy}")
    return record
