"""Reads what a study left on disk: `results.json` and the validation losses of its comparison runs."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
"""Version of results.json that this code reads (docs/architecture.md)."""

_NEEDED = {
    "study": ("name", "config", "config_hash"),
    "study.config.training": ("weight_decay",),
    "environment": (),
    "data": (),
    "models.proxy": ("parameters", "components", "steps", "batch_size", "tokens"),
    "models.target": ("parameters", "components", "steps", "batch_size", "tokens"),
    "search": ("uniform", "rlrs"),
    "transfer": ("uniform", "rlrs"),
    "ratios": ("rlrs",),
    "base": ("uniform", "rlrs"),
    "comparison": ("steps", "seeds", "baseline", "runs", "losses", "differences", "speed_up", "verdict"),
    "cost": (),
}


class ReportError(ValueError):
    """A study that cannot be reported on; one line that names the file and says what to do."""


@dataclass(frozen=True)
class LossCurve:
    """Validation losses of one comparison run.

    Args:
        arm: the run's arm.
        seed: of weights and data order.
        horizon: length of the run as a share of the full steps.
        steps: finished optimizer steps at each evaluation.
        losses: nats per token at each evaluation.
    """

    arm: str
    seed: int
    horizon: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]


def read_results(folder: Path) -> dict[str, Any]:
    """The contents of a study's `results.json`.

    Raises:
        ReportError: the file is missing, unreadable, of another schema, or lacks a part.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ReportError(
            f"{path}: there is none yet; finish the study first (rlrs run STUDY.yaml), or name its folder"
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{path}: cannot be read ({error}); run the study again to rewrite it") from None
    schema = results.get("schema") if isinstance(results, dict) else None
    if schema != SCHEMA:
        raise ReportError(
            f"{path}: has schema {schema!r}, this version of rlrs reads {SCHEMA}; "
            "report with the version that wrote it, or run the study again"
        )
    for place, keys in _NEEDED.items():
        part: Any = results
        for key in (*place.split("."), None):
            if not isinstance(part, dict):
                raise ReportError(f"{path}: lacks {place}; run the study again to rewrite it")
            part = part.get(key) if key else part
        for key in keys:
            if key not in part:
                raise ReportError(f"{path}: lacks {place}.{key}; run the study again to rewrite it")
    return results


def read_curves(folder: Path, runs: list[dict[str, Any]]) -> list[LossCurve]:
    """Validation losses of the comparison runs, from `runs/ID/metrics.jsonl`.

    Args:
        folder: the study's folder.
        runs: `comparison.runs` of results.json.

    Raises:
        ReportError: a run's metrics are missing or not what training writes.
    """
    return [_read_curve(folder / "runs" / str(run["id"]) / "metrics.jsonl", run) for run in runs]


def _read_curve(path: Path, run: dict[str, Any]) -> LossCurve:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ReportError(
            f"{path}: cannot be read ({reason}), but results.json names this run "
            f"(arm {run['arm']}, seed {run['seed']}); run the study again to train it"
        ) from None
    steps: list[int] = []
    losses: list[float] = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            loss = record.get("valid_loss")
            if loss is not None and math.isfinite(loss):  # a diverging run may end in NaN
                steps.append(int(record["step"]))
                losses.append(float(loss))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            raise ReportError(
                f"{path}, line {number}: not a line of metrics ({line[:40]!r}); "
                "remove the run's folder and run the study again"
            ) from None
    return LossCurve(run["arm"], int(run["seed"]), float(run["horizon"]), tuple(steps), tuple(losses))
