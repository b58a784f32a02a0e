"""Paired differences and saved steps, with intervals; a verdict in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True)
class Interval:
    """Mean over paired seeds, with its two-sided t interval."""

    mean: float
    low: float
    high: float
    level: float
    per_seed: tuple[float, ...]


@dataclass(frozen=True)
class SpeedUp(Interval):
    """Saved steps as a share of the baseline's: 1 - steps needed / the baseline's steps.

    `bound` is `lower` where in some seed even the shortest run reached the baseline's loss (the true share is
    larger), `upper` where in some seed the full-length run did not reach it (that seed counts as 0).
    """

    bound: Literal["none", "lower", "upper"]
    steps_needed: tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """What the comparison shows."""

    kind: Literal["gain", "gain_is_embedding", "no_transferable_gain"]
    sentence: str


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; per-seed differences are taken as independent and about normal.

    Raises:
        ValueError: fewer than two values, which have no spread.
    """
    from scipy import stats

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 paired seeds, not {n}")
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    return Interval(mean, mean - half, mean + half, LEVEL, tuple(values))


def steps_to_reach(loss: float, runs: Mapping[int, float]) -> tuple[float, Literal["none", "lower", "upper"]]:
    """Steps that a run with its own full schedule needs to end at `loss`, between runs of several lengths.

    Linear in log steps between neighbouring lengths; the shortest crossing counts.

    Args:
        loss: nats per token, the baseline's final loss.
        runs: total steps -> final loss (infinite for a run that diverged).

    Returns:
        Steps, and whether they are exact (`none`); at the shortest length where even that one is at or below
        `loss` (`lower`: the saving is at least this); at the longest where none is (`upper`).
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
    """
    needed, bounds = zip(*(steps_to_reach(loss, r) for loss, r in zip(baseline, runs, strict=True)), strict=True)
    saved = interval([1 - n / steps for n in needed])
    bound = "upper" if "upper" in bounds else "lower" if "lower" in bounds else "none"
    return SpeedUp(saved.mean, saved.low, saved.high, saved.level, saved.per_seed, bound, tuple(needed))


def verdict(differences: Mapping[str, Interval], speed_ups: Mapping[str, SpeedUp]) -> Verdict:
    """Words for the result: a gain counts when its whole interval is on the good side, against every control.

    Args:
        differences: control -> final loss of rlrs minus the control's, paired, in nats.
        speed_ups: control -> saved steps.
    """
    uniform, embedding = differences["uniform"], differences.get("embedding_only")
    n = len(uniform.per_seed)
    if not uniform.high < 0:
        return Verdict(
            "no_transferable_gain",
            f"No transferable gain: on the target, the ratios found on the proxy change the tuned baseline's final "
            f"loss by {uniform.mean:+.3f} nats ({_range(uniform)}; {n} paired seeds).",
        )
    saved = _saved(speed_ups["uniform"])
    start = f"Relative rates reach the tuned baseline's final loss with {saved}, on {n} paired seeds"
    if embedding is None:
        return Verdict("gain", f"{start}; no embedding-only control was run, so most of it may be that multiplier.")
    if not embedding.high < 0:
        return Verdict(
            "gain_is_embedding",
            f"{start}, but not measurably more than a tuned embedding multiplier alone gives "
            f"({embedding.mean:+.3f} nats against it; {_range(embedding)}): use that, it is simpler.",
        )
    return Verdict("gain", f"{start}; a tuned embedding multiplier alone is {-embedding.mean:.3f} nats behind.")


def _range(difference: Interval) -> str:
    return f"{difference.level:.0%} interval {difference.low:+.3f} to {difference.high:+.3f}"


def _saved(saved: SpeedUp) -> str:
    if saved.bound == "lower":
        return f"at least {saved.mean:.0%} fewer steps"
    return f"{saved.mean:.0%} fewer steps ({saved.level:.0%} interval {saved.low:.0%} to {saved.high:.0%})"
