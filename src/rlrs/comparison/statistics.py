"""Paired differences and saved steps, with intervals and tests for a number of seeds that was fixed beforehand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

from rlrs.records import Interval, SpeedUp

LEVEL = 0.95
"""Coverage of every interval; tests are at one minus it."""
Name = TypeVar("Name", bound=Hashable)


class PairedTest(NamedTuple):
    """How paired differences are judged: their mean's interval, and the p-value of a mean of 0, two-sided."""

    interval: Callable[[Sequence[float]], Interval]
    p_value: Callable[[Sequence[float]], float]


def moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error from the spread of two values or more."""
    n = len(values)
    mean = math.fsum(values) / n
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)


def interval(values: Sequence[float]) -> Interval:
    """Student's t interval of the mean; per-seed differences are taken as independent and about normal.

    Raises:
        ValueError: fewer than two values, which have no spread.

    >>> found = interval([-0.02, -0.03, -0.04])
    >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
    (-0.03, -0.055, -0.005)
    """
    from scipy import special

    n = len(values)
    if n < 2:
        raise ValueError(f"an interval needs at least 2 paired seeds, not {n}")
    mean, error = moments(values)
    half = float(special.stdtrit(n - 1, 0.5 + LEVEL / 2)) * error
    return Interval(mean=mean, low=mean - half, high=mean + half, level=LEVEL, per_seed=tuple(values))


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Interval of the mean by resampling the seeds: the middle 95 % of the means of 10,000 draws with replacement.

    It assumes no normal differences, and with few seeds it is too narrow: of 3 or 4, its coverage is nearer 80 %. So it
    is no verdict, but what Student's interval is checked against. B. Efron and R. Tibshirani, "An Introduction to the
    Bootstrap" (1993), section 13.3. The draws are always the same.

    Args:
        values: paired differences, two or more.

    Examples:
        >>> low, high = bootstrap([0.10, 0.12, 0.14, 0.16])
        >>> f"{low:.2f} to {high:.2f}"
        '0.11 to 0.15'
    """
    import numpy as np

    drawn = np.random.default_rng(0).choice(np.asarray(values), (10_000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def p_value(values: Sequence[float]) -> float:
    """Of Student's two-sided t-test against a mean of 0, two values or more.

    Examples:
        >>> round(p_value([1.0, 2.0, 3.0]), 4)
        0.0742
    """
    from scipy import special

    mean, error = moments(values)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * special.stdtr(len(values) - 1, -abs(mean) / error))


def p_smaller(values: Sequence[float], before: Sequence[float]) -> float:
    """Chance of a mean so far below an earlier one if both are the same: Welch's t-test, one-sided.

    B. L. Welch, "The generalization of Student's problem", Biometrika 34 (1947).

    Args:
        values: new ones, two or more.
        before: earlier ones, two or more, independent of the new ones.

    Examples:
        >>> round(p_smaller([0.02, 0.03, 0.01], [0.06, 0.07, 0.08]), 4)
        0.0018
    """
    from scipy import special

    (mean, error), (mean_before, error_before) = moments(values), moments(before)
    both = error**2 + error_before**2
    if both == 0:
        return 0.0 if mean < mean_before else 1.0
    freedom = both**2 / (error**4 / (len(values) - 1) + error_before**4 / (len(before) - 1))
    return float(special.stdtr(freedom, (mean - mean_before) / math.sqrt(both)))


FIXED = PairedTest(interval, p_value)
"""For a number of seeds that was fixed before any was looked at."""


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """P-values adjusted for each other: refusing where one is at most 5 % makes any false refusal 5 % likely at most.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979).

    Examples:
        >>> holm({"uniform": 0.01, "embedding_only": 0.04, "constant": 0.03})
        {'uniform': 0.03, 'embedding_only': 0.06, 'constant': 0.06}
    """
    adjusted: dict[Name, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


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


def speed_up(
    baseline: Sequence[float], runs: Sequence[Mapping[int, float]], steps: int, rule: PairedTest = FIXED
) -> SpeedUp:
    """Saved steps over paired seeds: 1 - steps needed to end at the baseline's final loss / the baseline's steps.

    Every length has a complete schedule of its own. Both arms train one model on batches of one size, so the share is
    that of tokens, FLOPs and, at one pace, of time and money too (`account` multiplies it out).

    Args:
        baseline: the baseline's final loss per seed, after `steps` steps.
        runs: per seed, the other arm's final loss by total steps.
        steps: full length.
        rule: of the interval.

    >>> runs = [{50: 3.1, 100: 2.9}, {50: 3.2, 100: 2.8}]
    >>> found = speed_up([3.0, 3.0], runs, steps=100)
    >>> [round(steps) for steps in found.steps_needed], round(found.mean, 2)
    ([71, 71], 0.29)
    """
    needed, bounds = zip(*(steps_to_reach(loss, r) for loss, r in zip(baseline, runs, strict=True)), strict=True)
    saved = rule.interval([1 - n / steps for n in needed])
    bound = "upper" if "upper" in bounds else "lower" if "lower" in bounds else "none"
    return SpeedUp(**dict(saved), bound=bound, steps_needed=tuple(needed), bootstrap=bootstrap(saved.per_seed))
