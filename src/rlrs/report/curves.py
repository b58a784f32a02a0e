"""Validation losses of a study's comparison runs, from their metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrs.records import ComparisonRun, RecordError, read_metrics


class ReportError(RecordError):
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
        run: id, and name of its folder.
    """

    arm: str
    seed: int
    horizon: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    run: str


def read_curves(folder: Path, runs: Sequence[ComparisonRun]) -> list[LossCurve]:
    """Validation losses of the comparison runs, from `runs/ID/metrics.jsonl`.

    Args:
        folder: the study's folder.
        runs: of the comparison.

    Raises:
        ReportError: a run's metrics are missing or not what training writes.
    """
    return [_read_curve(folder / "runs" / run.id / "metrics.jsonl", run) for run in runs]


def _read_curve(path: Path, run: ComparisonRun) -> LossCurve:
    try:
        # A diverging run may end in a loss that is no number.
        points = {
            line.step: line.valid_loss
            for line in read_metrics(path)
            if line.valid_loss is not None and math.isfinite(line.valid_loss)
        }
    except OSError as error:
        raise ReportError(
            f"{path}: cannot be read ({error.strerror or error}), but results.json names this run "
            f"(arm {run.arm}, seed {run.seed}); run the study again to train it"
        ) from None
    except RecordError as error:
        raise ReportError(f"{error}; remove the run's folder and run the study again") from None
    steps = sorted(points)
    return LossCurve(run.arm, run.seed, run.horizon, tuple(steps), tuple(points[step] for step in steps), run.id)
