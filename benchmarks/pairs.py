"""Timing of alternatives side by side, so that a machine whose speed drifts slows both."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlrs.environment import environment

RESULTS = Path(__file__).parent / "results"


def paired(
    ours: Callable[[], None],
    other: Callable[[], None],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Ratios of times, ours over the other's, round by round; which goes first alternates.

    `time.process_time` is the clock for one thread on a machine that others use as well.
    """

    def seconds(function: Callable[[], None]) -> float:
        start = clock()
        function()
        return clock() - start

    seconds(ours), seconds(other)
    ratios = []
    for turn in range(rounds):
        if turn % 2:
            theirs, mine = seconds(other), seconds(ours)
        else:
            mine, theirs = seconds(ours), seconds(other)
        ratios.append(mine / theirs)
    return ratios


def summary(ratios: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"median": median, "lower_quartile": low, "upper_quartile": high, "rounds": len(ratios)}


def write(name: str, rows: list[dict[str, Any]], folder: Path = RESULTS, **more: Any) -> Path:
    """Keep results with what they were measured with, and what `more` there is of that; raw ratios included."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"environment": {**environment(), **more}, "rows": rows}, indent=1) + "\n")
    return path
