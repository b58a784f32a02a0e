"""Thresholds from healthy runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rlrs.messages import printable
from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.observation import METRICS, read_observations
from rlrs.monitoring.signals import ENOUGH, Key, Signals
from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import RecordError
from rlrs.records.frozen import read_plain

FEWEST = 3
"""Runs to calibrate from: two are less than a seed's luck. Chosen here, not studied."""


def calibrate(runs: Sequence[str | Path]) -> Thresholds:
    """Thresholds that no healthy run crosses: the worst value of each check in any of them, and a margin.

    Of n + 1 exchangeable runs the last has the worst value with a probability of 1 / (n + 1); the margin of a check
    (`Check.margin`) lowers that. `held_out_alarms` counts the runs that the others' thresholds would have raised an
    alarm in.

    Args:
        runs: folders of runs with a metrics.jsonl, or such files: three or more, all healthy, of the recipe that is
            to be monitored, with a line every as many steps as the monitor will look.

    Raises:
        RecordError: fewer than three runs, one that is given twice, diverged, is too short or whose steps go back,
            runs with different intervals or components, or a damaged file; it names the run.
        OSError: a file cannot be read.
    """
    if len(runs) < FEWEST:
        raise RecordError(f"{len(runs)} healthy runs to calibrate from; should be {FEWEST} or more")
    _check_different(runs)
    worst: list[dict[Key, float]] = []
    observations, intervals = 0, {}
    parts: dict[str, str] = {}
    for run in runs:
        values, count, every = _worst_values(Path(run))
        worst.append(values)
        observations += count
        intervals[printable(str(run))] = every
        parts[printable(str(run))] = ", ".join(sorted({part for _, part in values if part is not None}))
    if len(set(intervals.values())) > 1:
        differ = ", ".join(f"{name} every {every}" for name, every in intervals.items())
        raise RecordError(f"runs have lines at different intervals of steps: {differ}")
    if len(set(parts.values())) > 1:
        differ = "; ".join(f"{name} has {found or 'none'}" for name, found in parts.items())
        raise RecordError(f"runs are of models with different components: {differ}")
    held_out = [_thresholds(worst[:n] + worst[n + 1 :]) for n in range(len(worst))]
    alarms = sum(
        any(_crosses(others, key, value) for key, value in values.items())
        for others, values in zip(held_out, worst, strict=True)
    )
    return _thresholds(worst).model_copy(
        update={
            "runs": tuple(intervals),
            "observations": observations,
            "every": next(iter(intervals.values())),
            "held_out_alarms": alarms,
        }
    )


def _worst_values(run: Path) -> tuple[dict[Key, float], int, int]:
    """The worst value of every check in a run, its observations, and the steps between two of them."""
    name = printable(str(run))
    _check_finished(run)
    signals, worst, steps = Signals(), {}, []
    for seen in read_observations(run):
        for key, value in signals.update(seen).items():
            if key[0] == "non_finite" and value:
                raise RecordError(f"{name}: not healthy: not a finite number at step {seen.step}")
            worst[key] = CHECKS[key[0]].worst(worst.get(key, value), value)
        if seen.loss is not None:
            if steps and seen.step <= steps[-1]:
                what = "two runs in one file, or one that went back to a checkpoint"
                raise RecordError(f"{name}: steps go from {steps[-1]} back to {seen.step}: {what}")
            steps.append(seen.step)
    if len(steps) < 2 * ENOUGH:
        raise RecordError(f"{name}: {len(steps)} lines with a loss; should be {2 * ENOUGH} or more to calibrate from")
    gaps = sorted(later - earlier for earlier, later in pairwise(steps))
    return worst, len(steps), gaps[len(gaps) // 2]


def _check_different(runs: Sequence[str | Path]) -> None:
    """The same run twice has nothing to say about a third one."""
    files: dict[Path, str] = {}
    for run in runs:
        file = (Path(run) / METRICS if Path(run).is_dir() else Path(run)).resolve()
        if file in files:
            twice = f"{files[file]} and {printable(str(run))}"
            raise RecordError(f"{twice} are the same run; should be {FEWEST} or more different ones")
        files[file] = printable(str(run))


def _check_finished(run: Path) -> None:
    path = run / "result.json"
    if not run.is_dir() or not path.exists():
        return
    try:
        result = read_plain(path.read_bytes())
    except ValueError as error:
        raise RecordError(f"{path}: damaged: {error}") from None
    status = result.get("status") if isinstance(result, dict) else None
    if status != "finished":
        raise RecordError(f"{printable(str(run))}: not healthy: its result says {status!r}")


def _thresholds(worst: Sequence[Mapping[Key, float]]) -> Thresholds:
    """For the worst values of every check in each of some runs."""
    merged: dict[Key, float] = {}
    for values in worst:
        for key, value in values.items():
            merged[key] = CHECKS[key[0]].worst(merged.get(key, value), value)
    whole: dict[str, float] = {}
    components: dict[str, dict[str, float]] = {}
    for (name, component), value in merged.items():
        check = CHECKS[name]
        if not check.calibrated:
            continue
        threshold = float(f"{check.threshold(value):.4g}")
        if component is None:
            whole[name] = threshold
        else:
            components.setdefault(name, {})[component] = threshold
    return Thresholds(thresholds=whole, components=components)


def _crosses(thresholds: Thresholds, key: Key, value: float) -> bool:
    threshold = thresholds.get(*key)
    return threshold is not None and CHECKS[key[0]].beyond(value, threshold)
