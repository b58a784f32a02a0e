"""What all records share: frozen, typed, strict about what they hold; read from and written to JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rlrs.files import write_atomic
from rlrs.messages import printable, should_be, shown

T = TypeVar("T", bound="Record")

MOST = 10**15
"""Largest count in a record: beyond any run, and far from where floats lose whole numbers. Chosen here."""
DEEPEST = 32
"""Lists and mappings within each other in a file of ours. Chosen here."""

Whole = Annotated[int, Field(ge=0, le=MOST)]
"""A count: steps, tokens, parameters."""
Loss = Annotated[float, Field(ge=-1e6, le=1e6)]
"""Nats per token, or a difference of such."""
Rate = Annotated[float, Field(gt=0, le=1e6)]
"""A learning rate."""
Value = Annotated[float, Field(ge=-1e12, le=1e12)]
"""Of a searched parameter."""


class RecordError(ValueError):
    """A file of ours that cannot be used; one line: which, where, what is wrong with it."""


class Record(BaseModel):
    """Base of all records: frozen, no unknown keys, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def to_plain(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        return self.model_dump(mode="json")


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, as `where: what`, in one short line."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(printable(str(part), 60) for part in problem["loc"])
    message = should_be(problem) or printable(problem["msg"].removeprefix("Value error, ").partition("\n")[0], 200)
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

    >>> import tempfile
    >>> from rlrs.records import RunResult
    >>> path = Path(tempfile.mkdtemp()) / "result.json"
    >>> write_record(path, RunResult(status="finished", steps=9, score=3.2, valid_loss=None, tokens=9, seconds=1))
    >>> read_record(path, RunResult, "train it again").score
    3.2
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RecordError(f"{path}: damaged: {first_problem(error)}; {remedy}") from None


def check_version(path: Path, plain: Any, key: str, known: int) -> None:
    """See that a file is not of a version to come.

    Args:
        path: of the file, for the message.
        plain: what it holds.
        key: that its version has, `schema` or `format`.
        known: the version that this code writes.

    Raises:
        RecordError: it is.

    >>> check_version(Path("monitor.yaml"), {"format": 2}, "format", 1)
    Traceback (most recent call last):
    rlrs.records.frozen.RecordError: monitor.yaml: has format 2, of a later rlrs: this one reads 1; use that version
    """
    version = plain.get(key) if isinstance(plain, dict) else None
    if isinstance(version, int) and not isinstance(version, bool) and version > known:
        raise RecordError(
            f"{path}: has {key} {shown(version)}, of a later rlrs: this one reads {known}; use that version"
        )


def read_plain(data: bytes) -> Any:
    """What JSON holds, with nothing that our own files never have.

    Raises:
        ValueError: not JSON, or NaN, a key twice, too many levels, a number of too many digits; one line.
    """
    try:
        plain = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError(f"more than {DEEPEST} levels of lists and mappings") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from None
    level = [plain]
    for _ in range(DEEPEST):
        level = [
            part
            for value in level
            if isinstance(value, dict | list)
            for part in (value.values() if isinstance(value, dict) else value)
        ]
    if level:
        raise ValueError(f"more than {DEEPEST} levels of lists and mappings")
    return plain


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(n for n in names if names.count(n) > 1))} twice")
    return found


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, in one step."""
    write_atomic(path, record.model_dump_json(indent=1) + "\n")
