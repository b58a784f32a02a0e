"""What all records share: frozen, typed, strict about what they hold; read from and written to JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rlrs.files import write_atomic

T = TypeVar("T", bound="Record")


class RecordError(ValueError):
    """A file of ours that cannot be used; one line: which, where, what is wrong with it."""


class Record(BaseModel):
    """Base of all records: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def to_plain(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        return self.model_dump(mode="json")


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as `where: what`, in one line."""
    problem = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ").partition("\n")[0]
    return f"{where}: {message}" if where else message


def read_record(path: Path, kind: type[T], remedy: str) -> T:
    """A record from a JSON file.

    Args:
        path: of the file.
        kind: of the record.
        remedy: what to do where the file is damaged, as the end of a sentence.

    Raises:
        RecordError: the file is not JSON, or not such a record.
        OSError: the file cannot be read.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path}: damaged: {first_problem(error)}; {remedy}") from None


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, in one step."""
    write_atomic(path, record.model_dump_json(indent=1) + "\n")
