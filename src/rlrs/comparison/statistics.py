"""Paired differences and saved steps, with intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from rlrs.records import Interval, SpeedUp

LEVEL = 0.95
"""Coverage of every interval."""


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; per-seed differences are taken as independent and about normal.

    Raises:
        ValueError: fewer than two values, which have no spread.

    >>> found = interval([-0.02, -0.03, -0.04])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (-0.03, -0.055, -0.005)
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 paired seeds, not {n}")
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    return Interval(mean=mean, low=mean - half, high=mean + half, level=LEVEL, per_seed=tuple(values))


def steps_to_reach(loss: float, runs: Mapping[int, float]) -> tuple[float, Literal["none", "lower", "upper"]]:
    """Steps that a run with its own full schedule needs to end at `loss`, between runs of several lengths.

    Linear in log steps between neighbouring lengths; the shortest crossing counts.

    Args:
        loss: nats per token, the baseline's final loss.
        runs: total steps -> final loss (infinite for a run that diverged).

    Returns:
        Steps, and whether they are exact (`none`); at the shortest length where even that one is at or below
        `loss` (`lower`: the saving is at least this); at the longest where none is (`upper`).

    >>> steps_to_reach(3.0, {100: 3.2, 200: 3.0, 400: 2.9})
    (200.0, 'none')
    >>> steps_to_reach(3.0, {100: 2.8, 200: 2.7})
    (100.0, 'lower')
    """
    lengths = sorted(runs)
    if runs[lengths[0]] <= loss:
        return float(lengths[0]), "lower"
    for short, long in itertools.pairwise(lengths):
        if runs[long] <= loss:
            above = runs[short] - loss
            share = above / (above + loss - runs[long]) if math.isfinite(above) else 1.0
            return short * (long / short) ** share, "none"
    return float(lengths[-1]), "upper"


def speed_up(baseline: Sequence[float], runs: Sequence[Mapping[int, float]], steps: int) -> SpeedUp:
    """Saved steps over paired seeds.

    Args:
        baseline: the baseline's final loss per seed, after `steps` steps.
        runs: per seed, the other arm's final loss by total steps.
        steps: full length.

    >>> runs = [{50: 3.1, 100: 2.9}, {50: 3.2, 100: 2.8}]
    >>> found = speed_up([3.0, 3.0], runs, steps=100)
    >>> [round(steps) for steps in found.steps_needed], round(found.mean, 2)
    ([71, 71], 0.29)
    """
    needed, bounds = zip(*(steps_to_reach(loss, r) for loss, r in zip(baseline, runs, strict=True)), strict=True)
    saved = interval([1 - n / steps for n in needed])
    bound = "upper" if "upper" in bounds else "lower" if "lower" in bounds else "none"
    return SpeedUp(**dict(saved), bound=bound, steps_needed=tuple(needed))
