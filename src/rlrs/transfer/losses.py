"""Losses and gains at a size that was not trained, from those that were measured on the rungs of a ladder.

Shapes: R rungs, K axes, S draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlrs.transfer.axes import Array, Axes, Size

DRAWS = 1000
_FLOORS = 40
"""Values of the loss that no size goes below, on a grid from 0 to nearly the lowest loss of the ladder."""
_EXPONENTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
"""Of the sum of powers, likewise."""
_MOST_LOST = 1.0
"""Steps that a worse arm is said to need more, at most, as a multiple of the control's."""


@dataclass(frozen=True)
class LossForecast:
    """Draws of an arm's loss at one size.

    Args:
        losses: nats per token, [S].
        per_token: how fast the loss falls there with the logarithm of the tokens, nats, [S]; None if the ladder has one
            horizon.
    """

    losses: Array
    per_token: Array | None


def fewest_rungs(axes: Axes) -> int:
    """Rungs that a straight line over these axes needs for an interval: one more than it has coefficients."""
    return len(axes.names) + 2


def forecast_loss(sizes: Sequence[Size], losses: Sequence[float], axes: Axes, at: Size, seed: int = 0) -> LossForecast:
    """Draws of the loss at a size, from power laws with a floor E that is not known.

    Two forms are fitted, and the draws are of both, by how well they fit: the product `E + exp(a + b log width + c log
    depth + d log tokens)`, and the sum `E + exp(a + b log width + c log depth) + exp(e + d log tokens)` (Hoffmann et
    al., 2022, arXiv:2203.15556). With E, or with the exponents of the sum, taken from a grid, each is a straight line
    with Student's predictive distribution.

    Args:
        sizes: of the rungs, R of them.
        losses: nats per token, each above 0.
        axes: `identified` for these sizes.
        at: the size that is asked for.
        seed: of the draws.

    Raises:
        ValueError: fewer rungs than `fewest_rungs`, or a loss that is not above 0.

    >>> from rlrs.transfer import identified
    >>> sizes = [Size(w, 2, t) for w in (16, 24, 32) for t in (1e5, 2e5)]
    >>> losses = [1.0 + 20 * s.width**-0.2 * s.tokens**-0.15 for s in sizes]
    >>> found = forecast_loss(sizes, losses, identified(sizes), Size(64, 2, 4e5))
    >>> print(f"{np.median(found.losses):.2f}, and in truth {1.0 + 20 * 64**-0.2 * 4e5**-0.15:.2f}")
    2.26, and in truth 2.26
    """
    design, ahead, free = _design(sizes, axes, at)
    y = np.array(losses, dtype=float)
    if not (y > 0).all():
        raise ValueError(f"losses should be above 0, not {y.min():g}")
    tokens = 1 + axes.names.index("tokens") if "tokens" in axes.names else None
    lines = [_product(design, ahead, y, floor, tokens) for floor in np.linspace(0.0, 0.98 * y.min(), _FLOORS)]
    if tokens is not None and design.shape[1] > 2:
        lines += _sums(design, ahead, y, tokens)
    logs = np.array([line.log_weight for line in lines])
    weights = np.exp(logs - logs.max())
    rng = np.random.default_rng([seed, len(y)])
    counts = rng.multinomial(DRAWS, weights / weights.sum())
    drawn = [line.draws(count, free, rng) for line, count in zip(lines, counts, strict=True) if count]
    order = rng.permutation(DRAWS)  # not line after line: draws of different things are added one to one
    losses_S, slopes_S = (np.concatenate(part)[order] for part in zip(*drawn, strict=True))
    return LossForecast(losses_S, None if tokens is None else slopes_S)


@dataclass(frozen=True)
class _Trend:
    """A least-squares line, and what it says ahead."""

    columns: Array
    ahead: Array
    y: Array
    floor: float | None
    """Of the product: the line is in the logarithm of the loss above it."""
    slope: Array
    """The line's coefficients times these: the derivative of the line by log tokens."""

    @property
    def _solution(self) -> tuple[Array, Array, float]:
        inverse: Array = np.asarray(np.linalg.inv(self.columns.T @ self.columns), dtype=np.float64)
        line = inverse @ self.columns.T @ self.y
        return np.asarray(inverse), np.asarray(line), max(float(((self.y - self.columns @ line) ** 2).sum()), 1e-10)

    @property
    def log_weight(self) -> float:
        """Logarithm of the likelihood at the best spread, in nats of loss."""
        _, line, rest = self._solution
        if self.floor is None and (line < 0).any():
            return -math.inf
        n = len(self.y)
        jacobian = 0.0 if self.floor is None else float(self.y.sum())
        return -0.5 * (n - len(line)) * math.log(rest) - jacobian

    def draws(self, count: int, free: int, rng: np.random.Generator) -> tuple[Array, Array]:
        inverse, line, rest = self._solution
        sigma = np.sqrt(rest / rng.chisquare(free, count))
        factor = np.linalg.cholesky(inverse)
        drawn = line + sigma[:, None] * (rng.standard_normal((count, len(line))) @ factor.T)
        ahead = drawn @ self.ahead + sigma * rng.standard_normal(count)
        slope = drawn @ self.slope
        if self.floor is None:
            return ahead, -slope
        above = np.exp(np.minimum(ahead, 20.0))
        return self.floor + above, -above * slope


def _product(design: Array, ahead: Array, y: Array, floor: float, tokens: int | None) -> _Trend:
    slope = np.zeros(design.shape[1])
    if tokens is not None:
        slope[tokens] = 1.0
    return _Trend(design, ahead, np.log(y - floor), float(floor), slope)


def _sums(design: Array, ahead: Array, y: Array, tokens: int) -> list[_Trend]:
    """Lines in powers of size and of tokens, one for each of the exponents on a grid."""
    size = [column for column in range(1, design.shape[1]) if column != tokens]
    found = []
    for *powers, power in itertools.product(_EXPONENTS, repeat=len(size) + 1):
        columns, there = (
            np.stack(
                [np.ones(len(rows)), np.exp(-(rows[:, size] @ np.array(powers))), np.exp(-power * rows[:, tokens])], 1
            )
            for rows in (design, ahead[None])
        )
        slope = np.array([0.0, 0.0, -power * there[0, 2]])
        found.append(_Trend(columns, there[0], y, None, slope))
    return found


def forecast_gain(sizes: Sequence[Size], gains: Sequence[float], axes: Axes, at: Size, seed: int = 0) -> Array:
    """Draws [S] of a gain at a size, nats: a straight line over the logarithms of the sizes, Student's prediction.

    Args:
        sizes: of the rungs, R of them.
        gains: loss of the control minus that of the arm, nats, one for each rung.
        axes: `identified` for these sizes.
        at: the size that is asked for.
        seed: of the draws.

    Raises:
        ValueError: fewer rungs than `fewest_rungs`.

    >>> from rlrs.transfer import identified
    >>> sizes = [Size(w, 2, t) for w in (16, 32, 64) for t in (1e5, 2e5)]
    >>> falling = [0.1, 0.1, 0.05, 0.05, 0.0, 0.0]  # half of it is gone with every doubling
    >>> round(float(np.median(forecast_gain(sizes, falling, identified(sizes), Size(128, 2, 2e5)))), 3)
    -0.05
    """
    design, ahead, free = _design(sizes, axes, at)
    y = np.array(gains, dtype=float)
    inverse = np.linalg.inv(design.T @ design)
    line = inverse @ design.T @ y
    spread = float(((y - design @ line) ** 2).sum()) / free
    rng = np.random.default_rng([seed, len(y), 1])
    error = math.sqrt(max(spread, 1e-10) * (1.0 + float(ahead @ inverse @ ahead)))
    return np.asarray(float(ahead @ line) + error * rng.standard_t(free, DRAWS))


def saved_steps(gain: Array, per_token: Array) -> Array:
    """Share of the steps [S] that an arm saves to a control's loss, from its gain and the slope of the control's loss.

    An arm that is `gain` nats lower at equal length is level with the control `gain / slope` earlier in the logarithm
    of the steps. Negative where it needs more; -1 is twice as many, or worse.

    Args:
        gain: nats, [S].
        per_token: fall of the loss with the logarithm of the steps, nats, [S].

    Examples:
        >>> [round(float(share), 2) for share in saved_steps(np.array([0.1, -0.1]), np.array([0.25, 0.25]))]
        [0.33, -0.49]
    """
    slope = np.maximum(per_token, 1e-3)  # of a curve that is flat or rises, next to nothing is known
    return np.asarray(np.maximum(1.0 - np.exp(np.minimum(-gain / slope, 20.0)), -_MOST_LOST))


def _design(sizes: Sequence[Size], axes: Axes, at: Size) -> tuple[Array, Array, int]:
    """Rows of a straight line's regression [R, 1 + K], the row that is asked for, and the degrees of freedom."""
    if len(sizes) < fewest_rungs(axes):
        raise ValueError(f"should have {fewest_rungs(axes)} rungs or more for {len(axes.names)} axes, not {len(sizes)}")
    design = np.array([[1.0, *axes.coordinates(size)] for size in sizes])
    return design, np.array([1.0, *axes.coordinates(at)]), len(sizes) - design.shape[1]
