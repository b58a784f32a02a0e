"""Simulated studies whose truth is known, drawn from measured run-to-run noise.

    python -m experiments.coverage.measure            # minutes; results.parquet and the tables of README.md
    python -m experiments.coverage.measure --tables   # the tables alone

Every simulated study draws its paired differences from a pool of `noise.py`, in units of the pool's standard
deviation, and is judged by the code of `rlrs.comparison`: its quantiles, its boundary, and for whole decisions with
four arms its `decide` and `stopping`.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from experiments.coverage import noise, store
from experiments.coverage.table import DOCUMENT, document
from rlrs.comparison import ANYTIME, FIXED, SIMPLEST_FIRST, boundary, decide
from rlrs.comparison.seed_stopping import stopping
from rlrs.comparison.statistics import LEVEL
from rlrs.environment import environment
from rlrs.settings import Arm

SEED = 0
STUDIES = 100_000
"""Simulated for each figure: its standard error is below 0.16 points."""
BOOTSTRAPS = 10_000
"""Studies with a bootstrap, each of 1,000 resamples."""
DECISIONS = 2_000
"""Whole decisions with four arms."""
LOOKS = (3, 20)
"""First and last number of seeds at which a study is looked at."""
SEEDS, MAX_SEEDS = 4, 12
EFFECTS = (1.0, 1.5, 2.0, 3.0, 4.0)
"""True differences, in units of the noise."""
MARGINS = (0.5, 1.0, 2.0)
"""Likewise, for studies without a difference."""

Array = NDArray[np.float64]
Rate = tuple[float, int]
"""A share of studies, and how many there were."""


def drawn(pool: Array, studies: int, seeds: int, rng: np.random.Generator) -> Array:
    """Paired differences of studies without a true difference, `(studies, seeds)`, standard deviation 1."""
    values = rng.choice(pool, (studies, seeds))
    return (values - pool.mean()) / pool.std()


def t_statistics(values_SN: Array) -> Array:
    """Student's t of the first n differences of every study, for n = 1, 2, ...; that of n = 1 is 0."""
    n = np.arange(1, values_SN.shape[1] + 1)
    mean = values_SN.cumsum(axis=1) / n
    spread = (values_SN**2).cumsum(axis=1) - n * mean**2
    error = np.sqrt(np.maximum(spread, 1e-300) / np.maximum(n - 1, 1) / n)
    return np.where(n > 1, mean / error, 0.0)


def quantile(n: int) -> float:
    """Student's."""
    return float(stats.t.ppf(0.5 + LEVEL / 2, n - 1))


def boundaries(kind: Callable[[int], float], first: int, last: int) -> Array:
    """Largest |t| that refuses nothing, for n = 1 ... last; infinite before the first look."""
    return np.array([kind(n) if n >= first else math.inf for n in range(1, last + 1)])


def bootstrap_coverage(values_SN: Array, rng: np.random.Generator, resamples: int = 1000) -> float:
    """How often the paired percentile bootstrap's 95 % interval holds 0."""
    held = 0
    for chunk in np.array_split(values_SN, max(1, len(values_SN) // 500)):
        n = chunk.shape[1]
        weights = rng.multinomial(n, np.full(n, 1 / n), resamples) / n
        low, high = np.quantile(chunk @ weights.T, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=1)
        held += int(((low <= 0) & (high >= 0)).sum())
    return held / len(values_SN)


def coverage(pool: Array, rng: np.random.Generator, studies: int, bootstraps: int) -> Iterator[dict[str, Any]]:
    """Of intervals with a number of seeds that was fixed beforehand, and of the sequence at all n at once."""
    for n in (4, 8):
        values = drawn(pool, studies, n, rng)
        t = np.abs(t_statistics(values)[:, -1])
        yield _row("coverage", "Student's t", n, (float((t <= quantile(n)).mean()), studies))
        yield _row("coverage", "confidence sequence", n, (float((t <= boundary(n)).mean()), studies))
        yield _row(
            "coverage", "paired bootstrap", n, (bootstrap_coverage(values[:bootstraps], rng), min(bootstraps, studies))
        )
    t = np.abs(t_statistics(drawn(pool, studies, LOOKS[1], rng)))
    for method, kind in (("Student's t", quantile), ("confidence sequence", boundary)):
        always = float((t <= boundaries(kind, *LOOKS)).all(axis=1).mean())
        yield _row("coverage at every look", method, LOOKS[1], (always, studies))


def false_gains(pool: Array, rng: np.random.Generator, studies: int) -> Iterator[dict[str, Any]]:
    """How often a study without a true difference is ever called a gain, looked at after every seed."""
    t = t_statistics(drawn(pool, studies, LOOKS[1], rng))
    for method, kind in (("Student's t", quantile), ("confidence sequence", boundary)):
        ever = float((t < -boundaries(kind, *LOOKS)).any(axis=1).mean())
        yield _row("false gains, two arms", method, LOOKS[1], (ever, studies))


def decisions(pool: Array, rng: np.random.Generator, studies: int) -> Iterator[dict[str, Any]]:
    """The same for whole decisions on four arms that are all alike, where any winner but the simplest is a false gain.

    And the seeds that `stop: anytime` takes to find nothing, by its margin.
    """
    wrong = {"stop: fixed": 0, "stop: fixed, seeds added after looking": 0, "stop: anytime": 0}
    used = dict.fromkeys(MARGINS, 0)
    for _ in range(studies):
        values = drawn(pool, len(SIMPLEST_FIRST), MAX_SEEDS, rng) / math.sqrt(2)  # their differences: deviation 1
        arms: list[tuple[Arm, list[float]]] = list(zip(SIMPLEST_FIRST, values.tolist(), strict=True))
        fixed: list[bool] = []
        going = dict.fromkeys(MARGINS, True)
        for n in range(SEEDS, MAX_SEEDS + 1):
            losses: dict[Arm, list[float]] = {arm: own[:n] for arm, own in arms}
            fixed.append(decide(losses, range(n), rule=FIXED).winner != "uniform")
            decision = decide(losses, range(n), rule=ANYTIME)
            for margin in (margin for margin in MARGINS if going[margin]):
                if stopping(losses, decision, margin, MAX_SEEDS).reason is not None:
                    going[margin] = False
                    used[margin] += n
                    wrong["stop: anytime"] += margin == MARGINS[0] and decision.winner != "uniform"
        wrong["stop: fixed"] += fixed[0]
        wrong["stop: fixed, seeds added after looking"] += any(fixed)
    for method, count in wrong.items():
        seeds = SEEDS if method == "stop: fixed" else MAX_SEEDS
        yield _row("false gains, four arms", method, seeds, (count / studies, studies))
    for margin, seeds in used.items():
        yield {**_mean("seeds used to find nothing", seeds / studies, studies), "effect": margin}


def savings(pool: Array, rng: np.random.Generator, studies: int) -> Iterator[dict[str, Any]]:
    """Seeds that a comparison of two arms takes until the gain is seen, against a fixed number with as much power."""
    values = drawn(pool, studies, MAX_SEEDS, rng)
    for effect in EFFECTS:
        t = t_statistics(values - effect)
        hit = t < -boundaries(boundary, SEEDS, MAX_SEEDS)
        seen = hit.any(axis=1)
        mean = float(np.where(seen, hit.argmax(axis=1) + 1, MAX_SEEDS).mean())
        chance = float(seen.mean())
        # With the same draws: the fewest seeds at which Student's test sees the gain as often.
        equal = next(n for n in range(2, MAX_SEEDS + 1) if float((t[:, n - 1] < -quantile(n)).mean()) >= chance)
        same = {"effect": effect, "chance": chance, "fixed_seeds": equal}
        yield {**_mean("seeds until the gain is seen", mean, studies), **same}


def _mean(measure: str, value: float, studies: int) -> dict[str, Any]:
    return {"measure": measure, "method": "stop: anytime", "seeds": MAX_SEEDS, "value": value, "studies": studies}


def _row(measure: str, method: str, seeds: int, rate: Rate) -> dict[str, Any]:
    value, studies = rate
    error = math.sqrt(value * (1 - value) / studies)
    return {"measure": measure, "method": method, "seeds": seeds, "value": value, "studies": studies, "error": error}


def measured(
    name: str, *, studies: int = STUDIES, bootstraps: int = BOOTSTRAPS, whole: int = DECISIONS
) -> list[dict[str, Any]]:
    """All figures for one pool of noise; the same numbers for the same arguments."""
    pool = noise.POOLS[name]()
    rng = np.random.default_rng([SEED, list(noise.POOLS).index(name)])
    parts = [
        *coverage(pool, rng, studies, bootstraps),
        *false_gains(pool, rng, studies),
        *decisions(pool, rng, whole),
        *savings(pool, rng, studies),
    ]
    return [{**row, "noise": name} for row in parts]


def main() -> None:
    """The command above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="write the tables from the results that are there")
    if not parser.parse_args().tables:
        same = {"commit": environment()["commit"], "seed": SEED, "numpy": np.__version__}
        store.save([{**same, **row} for name in noise.POOLS for row in measured(name)])
    DOCUMENT.write_text(document(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
