"""The results of this experiment, `results.parquet`: one row for each run on a seed that nothing was tuned on.

`arm` is a way to set rates, `runs` what it cost to find them (whole runs, the learning run among them), `base` the base
rate that it was given, as a multiple of the one that everything starts from; `ratios` and `lr` are what was trained.
Rows with the arm `tuning: ...` are of the rule's own settings, on seeds of their own.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from experiments import rows
from experiments.rows import Row

RESULTS = Path(__file__).parent / "results.parquet"
SCHEMA = pa.schema(
    [
        ("commit", pa.string()),
        ("model", pa.string()),
        ("arm", pa.string()),
        ("base", pa.float64()),
        ("seed", pa.int64()),
        ("runs", pa.int64()),
        ("steps", pa.int64()),
        ("lr", pa.float64()),
        ("final_fraction", pa.float64()),
        ("ratios", pa.string()),
        ("learned", pa.string()),
        ("valid_loss", pa.float64()),
        ("environment", pa.string()),
    ]
)


def load(path: Path = RESULTS) -> list[Row]:
    """All rows that there are."""
    return rows.read(path, SCHEMA) if path.exists() else []


def replace(new: list[Row], path: Path = RESULTS) -> None:
    """Write rows in the place of those of the same models and arms."""
    made = {(row["model"], row["arm"], row["base"]) for row in new}
    kept = [row for row in load(path) if (row["model"], row["arm"], row["base"]) not in made]
    rows.write(path, [*kept, *new], SCHEMA)
