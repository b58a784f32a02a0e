"""Run-to-run noise of paired differences, as it was measured: what simulated studies are drawn from."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.search_methods import store
from rlrs.comparison import read_results

DEMO = sorted((Path(__file__).parents[1] / "demo").glob("*.json"))
Pool = NDArray[np.float64]


def demo() -> Pool:
    """Residuals of the demo's studies: of every pair of neighbouring arms, differences less their mean over seeds.

    Those of n seeds are spread less than the noise by a factor of sqrt((n - 1) / n), which is undone.
    """
    found: list[float] = []
    for path in DEMO:
        comparison = read_results(path).comparison
        assert comparison is not None
        arms = [losses.per_seed for losses in comparison.losses.values()]
        for one, other in itertools.pairwise(arms):
            pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
            found += _residuals(np.array([[a - b for a, b in pairs]])).tolist()
    return np.array(found)


def search_methods() -> Pool:
    """Residuals of 409 settings on two small proxies, three seeds each: losses less the setting's and the seed's mean.

    A mixture of quiet and noisy settings, so with far longer tails than the noise of one pair of arms: a hard case.
    """
    found: list[float] = []
    rows = store.load()
    for proxy in ("moe", "dense"):
        searches = store.losses([row for row in rows if row["proxy"] == proxy])
        losses = {tuple(at["losses"]) for incumbents in searches.values() for at in incumbents}
        table = np.array(sorted(row for row in losses if None not in row), dtype=float)
        found += _residuals(table - table.mean(axis=0)).tolist()
    return np.array(found)


def normal() -> Pool:
    """A normal distribution, as 100,001 equally likely values: what Student's interval is exact for."""
    from scipy import stats

    return stats.norm.ppf((np.arange(100_001) + 0.5) / 100_001)


def _residuals(table_PN: Pool) -> Pool:
    n = table_PN.shape[1]
    centred = (table_PN - table_PN.mean(axis=1, keepdims=True)) * math.sqrt(n / (n - 1))
    return centred.ravel()


POOLS = {"demo": demo, "search methods": search_methods, "normal": normal}
