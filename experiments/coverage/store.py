"""The results of this experiment, `results.parquet`: a row for each figure, with commit, noise, method and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import rows
from experiments.rows import Row

RESULTS = Path(__file__).parent / "results.parquet"
SCHEMA = pa.schema(
    [
        ("commit", pa.string()),
        ("numpy", pa.string()),
        ("seed", pa.int64()),
        ("noise", pa.string()),
        ("measure", pa.string()),
        ("method", pa.string()),
        ("seeds", pa.int64()),
        ("effect", pa.float64()),
        ("value", pa.float64()),
        ("error", pa.float64()),
        ("studies", pa.int64()),
        ("chance", pa.float64()),
        ("fixed_seeds", pa.int64()),
    ]
)


def load() -> list[Row]:
    """All rows that there are."""
    return rows.read(RESULTS, SCHEMA)


def save(found: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows in the place of those that are there."""
    rows.write(RESULTS, found, SCHEMA)
