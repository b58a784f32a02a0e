"""Clusters of tensors by the course of their statistics; how many, by silhouette and stability.

Shapes: I items (a tensor, or a component that is kept whole), B quarters of the run, F figures.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrs.discovery import FOLLOW_BASE, RunStatistics
from rlrs.extras import install
from rlrs.grouping.found_components import FoundComponents, GroupingError, Place, grouped
from rlrs.grouping.naming import names

Array = NDArray[np.float64]

FIGURES_USED = ("gradient", "update_ratio", "signal_to_noise")
"""What tensors are compared by: natural logs of these, so that a factor counts the same in each."""
_QUARTERS = 4
_FLOOR = 0.01
"""Signal over all of a gradient's square below which it is not told from none. Chosen here."""
_DRAWS = 20
_STABLE, _APART = 0.8, 0.25
"""Least stability and silhouette of a grouping: below 0.25 there is no substantial structure (Kaufman and Rousseeuw,
1990, table 4); 0.8 was chosen here."""


@dataclass(frozen=True)
class _Item:
    """Tensors that stay together."""

    tensors: tuple[str, ...]
    rows: tuple[int, ...]


def find_components(
    runs: Sequence[RunStatistics],
    *,
    most: int = 8,
    keep: Iterable[str] = (),
    leave: Iterable[str] = tuple(sorted(FOLLOW_BASE)),
    seed: int = 0,
) -> FoundComponents:
    """Group the tensors of a model by how they learn.

    Every tensor is a point: the natural log of its gradient, of its update over its weights, and of its signal over
    noise, in each quarter of the run, minus the middle of all tensors. K-means for 2 to `most` clusters; taken is the
    number with the largest silhouette among those that are stable: whose clusters come again, by the adjusted Rand
    index, when tensors and observations are drawn anew with replacement (20 times, k-means begun from other seeds). If
    none is, all tensors are one component. Tied weights are one tensor, and so are the experts that are fused in one.

    Args:
        runs: statistics of one model, of several seeds if there are: means are grouped, and how well the seeds agree
            is measured.
        most: clusters at most.
        keep: components that no cluster divides.
        leave: components that are not grouped and keep their names; by default those that follow the base rate.
        seed: of all draws.

    Raises:
        GroupingError: runs of different models or of fewer than 8 observations, fewer than 3 tensors, `most` below 1,
            or a component that the model does not have.
        ModuleNotFoundError: scikit-learn is not installed.
    """
    runs = list(runs)
    _check(runs, most)
    places = _places(runs[0])
    items = _items(runs[0], set(keep), set(leave))
    points = np.mean([_points(run, items) for run in runs], axis=0)  # [I, F, B]
    tried = [(k, *_judged(runs, items, points, k, seed)) for k in range(2, min(most, len(items) - 1) + 1)]
    stable = [one for one in tried if one[1] >= _APART and one[2] >= _STABLE]
    count, silhouette, stability = max(stable, key=lambda one: one[1]) if stable else (1, None, None)
    labels = _clusters(_flat(points), count, seed)
    clusters = [[t for i, item in enumerate(items) if labels[i] == k for t in item.tensors] for k in range(count)]
    figures = [_figures(points[labels == k]) for k in range(count)]
    kept = {tensor: places[tensor] for item in items for tensor in item.tensors}
    found = grouped(
        clusters,
        names(clusters, kept, figures),
        kept,
        figures,
        silhouette=_rounded(silhouette),
        stability=_rounded(stability),
        seeds=_rounded(_across(runs, items, count, seed)) if len(runs) > 1 and count > 1 else None,
        tried=[(k, _rounded(apart), _rounded(again)) for k, apart, again in tried],
    )
    named = agreement(found.labels(), {tensor: place.component for tensor, place in kept.items()})
    return found.model_copy(update={"named": _rounded(named)})


def agreement(ones: Mapping[str, str], others: Mapping[str, str]) -> float:
    """Adjusted Rand index of two groupings of the tensors that both have: 1 the same, 0 as by chance.

    >>> agreement({"a": "x", "b": "x", "c": "y"}, {"a": "1", "b": "1", "c": "2"})
    1.0

    Raises:
        GroupingError: they have no tensor in common.
    """
    both = sorted(ones.keys() & others.keys())
    if not both:
        raise GroupingError("the two groupings have no tensor in common")
    metrics = _sklearn("metrics")
    return float(metrics.adjusted_rand_score([ones[name] for name in both], [others[name] for name in both]))


def _check(runs: Sequence[RunStatistics], most: int) -> None:
    if most < 1:
        raise GroupingError(f"the number of components should be 1 or more at most, not {most}")
    if not runs:
        raise GroupingError("there should be the statistics of one run at least")
    for number, run in enumerate(runs):
        if run.rows != runs[0].rows:
            raise GroupingError(f"run {number} is of another model than run 0: one grouping is of one model")
        if len(run.steps) < 2 * _QUARTERS:
            raise GroupingError(
                f"run {number} has {len(run.steps)} observations, and should have {2 * _QUARTERS} or more: train "
                "longer, or look more often (every)"
            )


def _places(run: RunStatistics) -> dict[str, Place]:
    return {r.tensor: Place(component=r.component, layer=r.layer, layers=r.layers) for r in run.rows}


def _items(run: RunStatistics, keep: set[str], leave: set[str]) -> list[_Item]:
    """Tensors, and components that are kept whole, with the rows of each."""
    there = {row.component for row in run.rows}
    for name in sorted(keep - there):
        raise GroupingError(f"the run has no component {name!r} to keep whole; it has {', '.join(sorted(there))}")
    together: dict[str, list[int]] = {}
    for index, row in enumerate(run.rows):
        if row.component.partition("/")[0] not in leave or row.component in keep:
            together.setdefault(f"/{row.component}" if row.component in keep else row.tensor, []).append(index)
    if len(together) < 3:
        raise GroupingError(f"there are {len(together)} tensors to group, and should be 3 or more")
    return [_Item(tuple(dict.fromkeys(run.rows[i].tensor for i in rows)), tuple(rows)) for rows in together.values()]


def _points(run: RunStatistics, items: Sequence[_Item], draw: np.random.Generator | None = None) -> Array:
    """Logs of the figures by item and quarter, minus their middle over all items [I, F, B]."""
    numbers = np.array([sum(run.rows[i].numbers for i in item.rows) for item in items], dtype=np.float64)
    sums = {name: np.stack([values[:, item.rows].sum(1) for item in items], 1) for name, values in run.sums.items()}
    found = []
    for quarter in np.array_split(np.arange(len(run.steps)), _QUARTERS):
        at = quarter if draw is None else draw.choice(quarter, len(quarter))
        mean = {name: values[at].mean(0) for name, values in sums.items()}
        whole = np.clip((mean["gradient"] + mean["gradient_before"]) / 2, 1e-300, None)
        share = np.clip(mean["product"] / whole, _FLOOR, 1 - _FLOOR)
        figures = [
            np.clip(mean["gradient"] / numbers, 1e-30, None) ** 0.5,
            np.clip(mean["update"] / np.clip(mean["weight"], 1e-30, None), 1e-20, 1e20) ** 0.5,
            share / (1 - share),
        ]
        logs = np.log(figures)
        found.append((logs - np.median(logs, axis=1, keepdims=True)).T)
    return np.stack(found, axis=2)


def _flat(points: Array) -> Array:
    return points.reshape(len(points), -1) / math.sqrt(_QUARTERS)


def _clusters(flat: Array, count: int, seed: int) -> NDArray[np.int64]:
    if count == 1:
        return np.zeros(len(flat), dtype=np.int64)
    return _fitted(flat, count, seed, 10).labels_


def _fitted(flat: Array, count: int, seed: int, begun: int) -> Any:
    """K-means; tensors that are the same point, of which fewer clusters come, are no warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _sklearn("cluster").KMeans(count, n_init=begun, random_state=seed).fit(flat)


def _judged(
    runs: Sequence[RunStatistics], items: Sequence[_Item], points: Array, count: int, seed: int
) -> tuple[float, float]:
    """Silhouette, and mean agreement with groupings of what is drawn anew."""
    metrics, flat = _sklearn("metrics"), _flat(points)
    labels, draw = _clusters(flat, count, seed), np.random.default_rng([seed, count])
    if len(np.unique(labels)) < count:
        return -1.0, 0.0
    apart = float(metrics.silhouette_score(flat, labels))
    again = []
    for number in range(_DRAWS):
        drawn = _flat(np.mean([_points(run, items, draw) for run in runs], axis=0))
        sample = np.unique(draw.integers(len(items), size=len(items)))
        if len(sample) < count:
            continue
        fitted = _fitted(drawn[sample], count, seed + 1 + number, 3)
        again.append(metrics.adjusted_rand_score(labels, fitted.predict(drawn)))
    return apart, float(np.mean(again)) if again else 0.0


def _across(runs: Sequence[RunStatistics], items: Sequence[_Item], count: int, seed: int) -> float:
    """Mean agreement of the runs, each grouped by itself into as many clusters."""
    metrics = _sklearn("metrics")
    labels = [_clusters(_flat(_points(run, items)), count, seed) for run in runs]
    return float(np.mean([metrics.adjusted_rand_score(a, b) for a, b in itertools.combinations(labels, 2)]))


def _figures(points: Array) -> dict[str, float]:
    """Of one cluster, factors from the middle of all tensors; `growth` of its gradient from first quarter to last."""
    means = points.mean(0)  # [F, B]
    found = {name: math.exp(float(means[f].mean())) for f, name in enumerate(FIGURES_USED)}
    return {**found, "growth": math.exp(float(means[0, -1] - means[0, 0]))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _sklearn(part: str) -> Any:
    from importlib import import_module

    try:
        return import_module(f"sklearn.{part}")
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"scikit-learn is missing; finding components is an extra: {install('discover')}"
        ) from None
