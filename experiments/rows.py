"""Results of an experiment: one Parquet file, one row for each run, with commit, method and seed in every row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlrs.files import write_atomic

Row = dict[str, Any]


def read(path: Path, schema: pa.Schema | None = None) -> list[Row]:
    """All rows of a file; columns that a row has no value for are left out of it.

    Raises:
        ValueError: the file has other columns than `schema`.
    """
    table = pq.read_table(path)
    if schema is not None and not table.schema.equals(schema):
        raise ValueError(f"{path}: columns {table.schema.names} should be {schema.names}, of the same types")
    return [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist(maps_as_pydicts="strict")]


def write(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write all rows, compressed with zstd.

    Raises:
        ValueError: a row has a value that no column holds.
    """
    for number, row in enumerate(rows):
        if unknown := row.keys() - set(schema.names):
            raise ValueError(f"row {number}: no column for {', '.join(sorted(unknown))}")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def text(value: Any) -> str:
    """Plain data in one column, as JSON."""
    return json.dumps(value, sort_keys=True)
