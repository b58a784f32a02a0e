"""The results of this experiment, `results.parquet`: rows with commit, method and seed.

`simulated`: one simulated ladder, with its truth and what was said of it; `simulated before`: by an earlier rule.
`trial`: a run of a real ladder's searches. `measured`: a run on a fresh seed of what an arm found on a rung.
`forecast`: an interval for the held-out rung. `truth`: what was measured there. `forecast again` and `truth again`: the
same by the rules of a later version, from the same trials.
"""

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
        ("kind", pa.string()),
        ("commit", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("models", pa.string()),
        ("rung", pa.string()),
        ("arm", pa.string()),
        ("what", pa.string()),
        ("params", pa.map_(pa.string(), pa.float64())),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("status", pa.string()),
        ("environment", pa.string()),
    ]
)


def load(path: Path | None = None) -> list[Row]:
    """All rows that there are, in the committed file if no other is given."""
    path = path or RESULTS
    return rows.read(path, SCHEMA) if path.exists() else []


def replace(mine: Mapping[str, Any], new: Sequence[Row], path: Path | None = None) -> None:
    """Write rows in the place of those that have all values of `mine`."""
    kept = [row for row in load(path) if any(row.get(name) != value for name, value in mine.items())]
    rows.write(path or RESULTS, [*kept, *new], SCHEMA)
