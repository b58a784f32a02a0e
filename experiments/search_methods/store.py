"""The results of this experiment, `results.parquet`: three kinds of rows, each with commit, proxy, method and seed.

`search`: how a search ended, and what it answers with (`params`). `trial`: a run that it proposed, and what came of it.
`loss`: validation loss of its incumbent after `runs` whole runs' worth of steps, on a seed that no search saw; `runs`
of the last rows is where it ended. The commit of a `loss` is that of the code that measured it, of a `search` and its
`trial` rows the one with which they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
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
        ("proxy", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("params", pa.map_(pa.string(), pa.float64())),
        ("whole_steps", pa.int64()),
        ("stopped", pa.string()),
        ("trial", pa.int64()),
        ("steps", pa.int64()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("move", pa.string()),
        ("for_steps", pa.int64()),
        ("for_width", pa.int64()),
        ("for_seed", pa.int64()),
        ("limits", pa.list_(pa.struct([("step", pa.int64()), ("limit", pa.float64())]))),
        ("rungs", pa.list_(pa.float64())),
        ("runs", pa.float64()),
        ("fresh_seed", pa.int64()),
        ("valid_loss", pa.float64()),
        ("environment", pa.string()),
    ]
)


def key(name: str) -> Row:
    """Columns of a search's name, `PROXY/METHOD/SEED`."""
    proxy, method, seed = name.split("/")
    return {"proxy": proxy, "method": method, "seed": int(seed)}


def name(row: Mapping[str, Any]) -> str:
    """Which search a row belongs to."""
    return f"{row['proxy']}/{row['method']}/{row['seed']}"


def load(path: Path | None = None) -> list[Row]:
    """All rows that there are, in the committed file if no other is given."""
    path = path or RESULTS
    return rows.read(path, SCHEMA) if path.exists() else []


def replace(names: Collection[str], kinds: Collection[str], new: Sequence[Row], path: Path | None = None) -> None:
    """Write rows of these searches in the place of those of these kinds that there are."""
    kept = [row for row in load(path) if name(row) not in names or row["kind"] not in kinds]
    rows.write(path or RESULTS, [*kept, *new], SCHEMA)


def search_rows(head: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], commit: str | None) -> list[Row]:
    """Rows of one search: `head` has its name, end and answer, `trials` what it proposed and what came of it."""
    same = {"commit": commit, **key(head["search"])}
    at = {"params": dict(zip(head["params"], head["best"], strict=True))} if "best" in head else {}
    made: list[Row] = [{"kind": "search", **same, **at, **{k: head[k] for k in ("whole_steps", "stopped")}}]
    for trial in trials:
        row = {k: v for k, v in trial.items() if k not in ("n", "at", "limits")}
        if "limits" in trial:
            row["limits"] = [{"step": step, "limit": limit} for step, limit in trial["limits"]]
        params = dict(zip(head["params"], trial["at"], strict=True))
        made.append({"kind": "trial", **same, "trial": trial["n"], "params": params, **row})
    return made


def searches(of: Sequence[Row]) -> dict[str, tuple[Row, list[Row]]]:
    """Search -> its head and its trials, as `search_rows` takes them."""
    found: dict[str, tuple[Row, list[Row]]] = {}
    for row in of:
        if row["kind"] == "search":
            head = {"search": name(row), "whole_steps": row["whole_steps"], "stopped": row["stopped"], "params": []}
            found[name(row)] = (head | ({"best": [*row["params"].values()]} if "params" in row else {}), [])
        elif row["kind"] == "trial":
            head, trials = found[name(row)]
            head["params"][:] = row["params"]
            trial = {"n": row["trial"], "at": [*row["params"].values()], "steps": row["steps"], "status": row["status"]}
            trial |= {"score": row.get("score"), "move": row["move"]}
            trial |= {k: row[k] for k in ("for_steps", "for_width", "for_seed") if k in row}
            if "limits" in row:
                limits = [[limit["step"], limit["limit"]] for limit in row["limits"]]
                trial |= {"limits": limits, "rungs": row["rungs"]}
            trials.append(trial)
    return found


def loss_rows(
    search: str, measured: Sequence[Mapping[str, Any]], seeds: Sequence[int], environment: Mapping[str, Any]
) -> list[Row]:
    """Rows of one search's incumbents: after how many runs, and the loss on each of the seeds."""
    same = {"kind": "loss", "commit": environment["commit"], **key(search), "environment": rows.text(environment)}
    return [
        {**same, "runs": m["runs"], "fresh_seed": seed, "valid_loss": loss}
        for m in measured
        for seed, loss in zip(seeds, m["losses"], strict=True)
    ]


def losses(of: Sequence[Row]) -> dict[str, list[Row]]:
    """Search -> its incumbents by cost: `{"runs": cost, "losses": [...]}`, a loss for each fresh seed."""
    found: dict[str, dict[float, list[float | None]]] = {}
    for row in of:
        if row["kind"] == "loss":
            found.setdefault(name(row), {}).setdefault(row["runs"], []).append(row.get("valid_loss"))
    return {search: [{"runs": cost, "losses": at} for cost, at in by.items()] for search, by in found.items()}


def environments(of: Sequence[Row]) -> list[Row]:
    """What the losses were measured with, each once."""
    return [json.loads(one) for one in dict.fromkeys(row["environment"] for row in of if row["kind"] == "loss")]
