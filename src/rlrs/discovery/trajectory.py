"""A learned course of rates as an ordinary `Ratios`: fitted by a start and an end, or knots, with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlrs.schedules import BaseSchedule, Curve

Array = NDArray[np.float64]

_BLOCKS = 10
"""Pieces of a run that are drawn together for the uncertainty, as neighbours are not independent. Chosen here."""
_DRAWS = 200
_DAMPING = 1e-3
"""Of a step of the fit, as a share of the information of a whole course; keeps what the course says nothing of."""


@dataclass(frozen=True)
class FittedCourse:
    """One component's rates as ratios at knots.

    Args:
        knots: pairs (progress, ratio), as `Ratio.knots`.
        deviations: standard deviation of each ratio's natural log, from pieces of the run drawn again.
        residual: root mean square of log(learned rate / fitted rate) over the run.
    """

    knots: tuple[tuple[float, float], ...]
    deviations: tuple[float, ...]
    residual: float


def fit_course(
    schedule: BaseSchedule, steps: Sequence[int], rates: Sequence[float], progress: Sequence[float]
) -> FittedCourse:
    """Least squares in the logarithm of the rate, every step with the same weight.

    Between knots a rate is linear in the base's `c` (`rlrs.schedules`), so the fit is the rate that `RelativeLR` would
    give, and not an interpolation of ratios. With one knot, the ratio is held.

    Args:
        schedule: the base's.
        steps: 0-based, after the warm-up.
        rates: over the base peak rate, at these steps.
        progress: of the knots, from 0 on, increasing; `(0, 1)` for a start and an end, `(0,)` for a held ratio.

    Examples:
        >>> base = BaseSchedule(total_steps=100, final_fraction=0.1)
        >>> course = [Curve(base, ((0.0, 4.0), (1.0, 0.5)))(t) for t in range(100)]
        >>> [(at, round(ratio, 3)) for at, ratio in fit_course(base, range(100), course, (0.0, 1.0)).knots]
        [(0.0, 4.0), (1.0, 0.5)]
    """
    kept = [(t, rate) for t, rate in zip(steps, rates, strict=True) if rate > 0 and schedule(t) > 0]
    if not kept:
        raise ValueError("no step after the warm-up was recorded: nothing was learned")
    at = [t for t, _ in kept]
    y_n = np.log([rate for _, rate in kept])
    x_np = np.array([[curve(t) for t in at] for curve in _basis(schedule, progress)]).T
    # It begins with what the course shows nearest to each knot.
    base_n = np.array([schedule(t) for t in at])
    places = np.array([(t - schedule.warmup_steps) / schedule.decay_steps for t in at])
    q_p = np.array([y_n[i] - math.log(base_n[i]) for p in progress for i in [int(np.argmin(np.abs(places - p)))]])
    for _ in range(60):
        residual_n, slope_np = _linearised(x_np, y_n, q_p)
        q_p = q_p + np.clip(_solved(slope_np, residual_n), -1.0, 1.0)
    residual_n, slope_np = _linearised(x_np, y_n, q_p)
    ratios = [float(f"{value:.6g}") for value in np.exp(q_p)]
    knots = tuple(zip(progress, ratios, strict=True)) if len(progress) > 1 else ((0.0, ratios[0]), (1.0, ratios[0]))
    deviations = _deviations(slope_np, residual_n)
    return FittedCourse(
        tuple((float(p), r) for p, r in knots),
        tuple(deviations if len(progress) > 1 else [*deviations, *deviations]),
        float(f"{math.sqrt(float(np.mean(residual_n**2))):.3g}"),
    )


def _basis(schedule: BaseSchedule, progress: Sequence[float]) -> list[Curve]:
    """A curve for each knot, with the ratio 1 there and 0 at the others; a rate is a sum of multiples of them."""
    if len(progress) == 1:
        return [Curve(schedule)]
    return [Curve(schedule, [(p, float(k == j)) for k, p in enumerate(progress)]) for j in range(len(progress))]


def _linearised(x_np: Array, y_n: Array, q_p: Array) -> tuple[Array, Array]:
    """Residuals [n] of the logarithm, and its slopes [n, p] by the logarithm of every ratio."""
    parts_np = x_np * np.exp(q_p)
    rate_n = parts_np.sum(1)
    return y_n - np.log(rate_n), parts_np / rate_n[:, None]


def _solved(slope_np: Array, residual_n: Array) -> Array:
    normal = slope_np.T @ slope_np
    damped = normal + _DAMPING * len(slope_np) * np.eye(len(normal))
    return np.asarray(np.linalg.solve(damped, slope_np.T @ residual_n), dtype=np.float64)


def _deviations(slope_np: Array, residual_n: Array) -> list[float]:
    """Of the logarithms of the ratios: blocks of the residuals are drawn with replacement, and fitted again."""
    n = len(residual_n)
    length = max(1, n // _BLOCKS)
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):
        first = generator.integers(0, n, -(-n // length))
        picked = (first[:, None] + np.arange(length)).ravel()[:n] % n
        draws.append(_solved(slope_np, residual_n[picked]))
    return [float(f"{value:.3g}") for value in np.std(draws, axis=0)]
