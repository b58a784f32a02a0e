"""The results of this experiment, `results.parquet`: one row for each run of a grid, with commit, arm and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import rows
from experiments.evidence.parts import GridRun
from experiments.rows import Row
from rlrs.records import RunResult

RESULTS = Path(__file__).parent / "results.parquet"
SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("commit", pa.string()),
        ("arm", pa.string()),
        ("what", pa.string()),
        ("seed", pa.int64()),
        ("lr", pa.float64()),
        ("steps", pa.int64()),
        ("tokens", pa.int64()),
        ("active", pa.int64()),
        ("tokens_per_active", pa.float64()),
        ("status", pa.string()),
        ("diverged_at", pa.int64()),
        ("score", pa.float64()),
        ("valid_loss", pa.float64()),
        ("seconds", pa.float64()),
        ("run", pa.string()),
        ("spec", pa.string()),
        ("environment", pa.string()),
    ]
)


def load() -> list[Row]:
    """All rows that there are."""
    return rows.read(RESULTS, SCHEMA) if RESULTS.exists() else []


def save(found: list[Row]) -> None:
    """Write all rows."""
    rows.write(RESULTS, sorted(found, key=lambda row: (row["part"], row["arm"], row["lr"], row["seed"])), SCHEMA)


def row(part: str, run: GridRun, result: RunResult, length: int, active: int, environment: dict[str, Any]) -> Row:
    """A run that has ended; `tokens` are those that it was to have, however it ended.

    Args:
        part: of the evidence.
        run: what was asked.
        result: what came of it.
        length: tokens of a sequence.
        active: parameters that a token passes.
        environment: what it was made with.
    """
    spec = run.spec
    tokens = spec.steps * spec.batch_size * length
    made: dict[str, Any] = {
        "part": part,
        "commit": environment["commit"],
        "arm": run.arm,
        "what": run.what,
        "seed": spec.seed,
        "lr": spec.lr,
        "steps": spec.steps,
        "tokens": tokens,
        "active": active,
        "tokens_per_active": tokens / active,
        "status": result.status,
        "diverged_at": result.diverged_at,
        "score": result.score,
        "valid_loss": result.valid_loss,
        "seconds": result.seconds,
        "run": spec.id,
        "spec": rows.text(spec.to_plain()),
        "environment": rows.text(environment),
    }
    return {key: value for key, value in made.items() if value is not None}
