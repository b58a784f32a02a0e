"""Reads results.json, of this version and of the one before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlrs.comparison.schema1 import upgraded
from rlrs.messages import printable, shown
from rlrs.records import RecordError, Results
from rlrs.records.frozen import first_problem, read_plain
from rlrs.records.results import RESULTS_SCHEMA, checksum

_REMEDY = "run the study again to rewrite it (rlrs run STUDY.yaml; finished runs are kept)"


def read_results(path: str | Path) -> Results:
    """What a study found, from its results.json of schema 1 or 2.

    A file of schema 2 is taken only as it was written: it has a checksum. What a file of schema 1 says is decided anew
    by `decide`, whose rule is newer than such files.

    Args:
        path: of the file.

    Raises:
        RecordError: the file is damaged, was changed, or is of another version; one line with file and place.
        OSError: it cannot be read.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        plain = read_plain(data)
        return _results(plain)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    except ValidationError as error:
        raise RecordError(f"{path}: damaged: {first_problem(error)}; {_REMEDY}") from None
    except (ValueError, OverflowError) as error:
        raise RecordError(f"{path}: damaged: {printable(str(error), 200)}; {_REMEDY}") from None


def _results(plain: Any) -> Results:
    schema = plain.get("schema") if isinstance(plain, dict) else None
    if schema == 1 and not isinstance(schema, bool):
        return upgraded(plain)
    if schema != RESULTS_SCHEMA or isinstance(schema, bool):
        raise RecordError(
            f"has schema {shown(schema)}, this version of rlrs reads 1 and {RESULTS_SCHEMA}; "
            "read it with the version that wrote it, or run the study again"
        )
    stored = plain.pop("checksum", None)
    results = Results.model_validate(plain)
    if stored != checksum(plain):
        raise RecordError(
            f"does not go with its checksum: it was changed after it was written, or is damaged; {_REMEDY}"
        )
    return results
