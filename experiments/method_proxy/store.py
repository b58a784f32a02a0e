"""The results of this experiment, `results.parquet`: rows with commit, arm and seed.

`arm`: how an arm ended, with what (`params`). `trial`: a run of it; `design` is "" for the design that the tables show
and names the others, which were given up. `loss`: validation loss on a seed that no search saw. `fit`: the minimum of
one surface through the runs of several searches (`pooled.py`), its losses beside it under `design`. `seed` is the run's
(of an `arm` and a `fit`: the searches' own, 0), `for_seed` set where a trial asked for another than its search's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import rows
from experiments.rows import Row

RESULTS = Path(__file__).parent / "results.parquet"
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("design", pa.string()),
        ("commit", pa.string()),
        ("arm", pa.string()),
        ("seed", pa.int64()),
        ("for_seed", pa.int64()),
        ("trial", pa.int64()),
        ("params", pa.map_(pa.string(), pa.float64())),
        ("move", pa.string()),
        ("steps", pa.int64()),
        ("width", pa.int64()),
        ("status", pa.string()),
        ("score", pa.float64()),
        ("valid_loss", pa.float64()),
        ("losses", pa.list_(pa.float64())),
        ("finished", pa.bool_()),
        ("stopped", pa.string()),
        ("fit", pa.string()),
        ("environment", pa.string()),
    ]
)
SEED = 0
"""Of all searches here."""
TRIAL = ("params", "move", "status", "score")
GIVEN_UP = (*TRIAL, "design", "arm", "steps", "width", "valid_loss", "losses")


def load() -> list[Row]:
    """All rows that there are."""
    return rows.read(RESULTS, SCHEMA) if RESULTS.exists() else []


def trial_row(trial: Mapping[str, Any]) -> Row:
    """Columns of a trial: what was asked for, where `seed` is given only if it is not the search's."""
    return {**trial, "seed": trial.get("seed", SEED), "for_seed": trial.get("seed")}


def _trial(row: Row, columns: Sequence[str]) -> Row:
    asked = {"seed": row["for_seed"]} if "for_seed" in row else {}
    return {k: row[k] for k in columns if k in row} | asked


def arms(of: Sequence[Row]) -> dict[str, Row]:
    """Arm -> what it tried and found, as `save_arms` takes it."""
    found: dict[str, Row] = {}
    for row in of:
        if row.get("design"):
            continue
        if row["kind"] == "arm":
            arm = {"environment": json.loads(row["environment"]), "finished": row["finished"]}
            arm |= {"best": row["params"], "losses": []} if row["finished"] else {}
            found[row["arm"]] = arm | {k: row[k] for k in ("stopped", "steps") if k in row}
        elif row["kind"] == "trial":
            found[row["arm"]].setdefault("trials", []).append({"score": None} | _trial(row, TRIAL))
        elif row["kind"] == "loss":
            found[row["arm"]]["losses"].append(row.get("valid_loss"))
    return found


def save_arms(found: Mapping[str, Row], seeds: Sequence[int]) -> None:
    """Write what arms tried and found in the place of what there is of them."""
    kept = [row for row in load() if row.get("design") or row["kind"] not in ("arm", "trial", "loss")]
    made: list[Row] = []
    for arm, record in found.items():
        same = {"design": "", "arm": arm, "commit": record["environment"]["commit"]}
        end = {k: record[k] for k in ("finished", "stopped", "steps") if k in record}
        end |= {"params": record["best"]} if "best" in record else {}
        made.append({"kind": "arm", **same, "seed": SEED, **end, "environment": rows.text(record["environment"])})
        trials = enumerate(record.get("trials", []))
        made += [{"kind": "trial", **same, "trial": n, **trial_row(trial)} for n, trial in trials]
        losses = zip(seeds, record.get("losses", []), strict=False)
        made += [{"kind": "loss", **same, "seed": seed, "valid_loss": loss} for seed, loss in losses]
    rows.write(RESULTS, [*made, *kept], SCHEMA)


def given_up(of: Sequence[Row]) -> list[Row]:
    """Trials of designs that were given up, and runs by hand."""
    return [_trial(row, GIVEN_UP) for row in of if row["kind"] == "trial" and row["design"]]


def fits(of: Sequence[Row]) -> Iterator[Row]:
    """What the pooled surfaces found, as `save_fit` takes it."""
    for row in of:
        if row["kind"] == "fit":
            points: dict[str, Row] = {}
            seeds = []
            for loss in of:
                if loss["kind"] == "loss" and loss.get("design") == row["design"]:
                    point = points.setdefault(loss["arm"], {"params": loss["params"], "losses": []})
                    point["losses"].append(loss.get("valid_loss"))
                    seeds += [loss["seed"]] if loss["seed"] not in seeds else []
            known = {**json.loads(row["fit"]), "best": row["params"]}
            yield {"environment": json.loads(row["environment"]), "fit": known, "fresh_seeds": seeds, "points": points}


def save_fit(record: Mapping[str, Any]) -> None:
    """Write a pooled surface's minimum in the place of one through as many runs."""
    known, environment = dict(record["fit"]), record["environment"]
    design = f"one surface through {known['runs']} runs"
    same = {"design": design, "commit": environment["commit"]}
    best = known.pop("best")
    made: list[Row] = [{"kind": "fit", **same, "seed": SEED, "params": best, "fit": rows.text(known)}]
    made[0]["environment"] = rows.text(environment)
    for arm, point in record["points"].items():
        for seed, loss in zip(record["fresh_seeds"], point["losses"], strict=True):
            made.append(
                {"kind": "loss", **same, "arm": arm, "params": point["params"], "seed": seed, "valid_loss": loss}
            )
    rows.write(RESULTS, [*(row for row in load() if row.get("design") != design), *made], SCHEMA)
