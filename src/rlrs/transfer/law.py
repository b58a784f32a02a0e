"""Where the best rates are at a size that was not searched: one quadratic fitted to the trials of all rungs together.

Around the best point of a rung the loss is taken to be a parabola in the coordinates of `rlrs.search.surface`, with
one Hessian H for all rungs, and the best point to move linearly with the logarithms of width, depth and tokens:

    loss = c_r + 1/2 (x - m_r)' H (x - m_r) + noise,    m_r = a + B z_r + a deviation of the rung's own

Expanded, `H m_r` is linear in z_r as well: all unknowns are coefficients of one linear regression, whose posterior is
normal once noise and the prior's scale are given; these are summed over on a grid. Law and intervals are draws from it.

Shapes: N trials, R rungs, D coordinates, K axes, P coefficients, S draws, G points of a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrs.search.space import Space
from rlrs.search.surface import (
    CUBIC,
    CURVATURE,
    CURVATURE_MEAN,
    INTERACTION,
    SLOPE,
    Array,
    Rates,
    quadratic_features,
    second_derivatives,
)
from rlrs.transfer.axes import Axes, Size

LEVEL = 0.9
"""Coverage of a law's intervals."""
DRAWS = 1000
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_NOISES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)
_DRIFT = 0.06
"""Prior standard deviation of how a slope changes with the logarithm of a size: a best point that moves in proportion
to the size, or not at all, is as likely as one that moves with its square root. Chosen here."""
_DEVIATIONS = (0.002, 0.01, 0.03)
"""Of a rung's slopes from the law, before scaling: a best point that is off by a factor of 1.03, 1.2 or 1.6."""
_LEVEL = 0.5
"""Of a rung's loss, nats: wide, so that it says nothing."""
_FLATTEST = 0.05
"""Least curvature of a draw, as a share of the prior's mean: a direction without any has its best point anywhere."""
_GRID = 4
"""Points of a grid of base rates on each side of its start: as far as five runs, the default, come."""
_REACH = math.log(64.0)
"""How far from the ladder's middle a best point may be, natural log: as far as a search may go."""


@dataclass(frozen=True)
class RungTrials:
    """The trials of one arm on one rung.

    Args:
        size: of the rung.
        logarithms: of the searched parameters, [N, D], as `Space.coordinates` gives them.
        scores: nats per token, [N]; infinite for runs that diverged.
    """

    size: Size
    logarithms: Array
    scores: Array

    @classmethod
    def from_points(
        cls, size: Size, space: Space, points: Sequence[Mapping[str, float]], scores: Sequence[float]
    ) -> RungTrials:
        """The same from points of a search.

        Args:
            size: of the rung.
            space: that was searched.
            points: one for each trial.
            scores: nats per token; infinite for runs that diverged.
        """
        return cls(size, np.array([space.coordinates(point) for point in points]), np.array(scores, dtype=float))


@dataclass(frozen=True)
class Optima:
    """Draws of the best point at one size, and of the loss around it.

    Args:
        points: [S, D], in the surface's coordinates.
        hessians: [S, D, D], nats per squared unit.
        along: [D]: the direction in which all coordinates move with the base rate.
    """

    points: Array
    hessians: Array
    along: Array

    def penalty(self, at: Array, *, retuned: bool = True) -> Array:
        """Loss of a point above the best one, [S], nats; with the base rate tuned again, unless `retuned` is False."""
        offset = at - self.points
        if retuned:
            offset = offset + self.shift(at)[:, None] * self.along
        return np.asarray(0.5 * np.einsum("sd,sde,se->s", offset, self.hessians, offset))

    def shift(self, at: Array) -> Array:
        """By how much the logarithm of the base rate is best moved from a point whose ratios stay, [S]."""
        if not self.along.any():
            return np.zeros(len(self.points))
        weighted = self.hessians @ self.along
        return np.asarray(-((at - self.points) * weighted).sum(1) / (weighted @ self.along))

    def tuned(self, at: Array, factor: float, noise: float) -> Array:
        """By how much tuning moves that logarithm: to the best point of a grid by scores with noise, [S].

        Args:
            at: a point whose ratios stay, [D]; its base rate is a point of the grid.
            factor: grid ratio, above 1.
            noise: of a score, nats.
        """
        curvatures = np.einsum("d,sde,e->s", self.along, self.hessians, self.along)
        moves_G: Array = math.log(factor) * np.arange(-_GRID, _GRID + 1.0)
        scores_SG = 0.5 * curvatures[:, None] * (moves_G - self.shift(at)[:, None]) ** 2
        scores_SG += noise * np.random.default_rng([2, len(self.points)]).standard_normal(scores_SG.shape)
        return moves_G[scores_SG.argmin(1)] if self.along.any() else self.shift(at)


@dataclass(frozen=True)
class RatioLaw:
    """Draws of the law of one arm; made by `fit_law`.

    Args:
        names: of the searched parameters, D of them.
        axes: of the sizes.
        rates: from logarithms to the surface's coordinates.
        centre: [D], in the surface's coordinates.
        slopes: [S, D], of the loss at the centre at the ladder's middle.
        drifts: [S, D, K]: how they change with the sizes.
        hessians: [S, D, D].
        deviations: [S]: of a rung's own slopes from the law.
        noise: of a trial's score around the quadratic, nats: the posterior's mean.
    """

    names: tuple[str, ...]
    axes: Axes
    rates: Rates
    centre: Array
    slopes: Array
    drifts: Array
    hessians: Array
    deviations: Array
    noise: float

    def optima(self, size: Size, *, deviation: bool = True) -> Optima:
        """Where the best point is at a size.

        Args:
            size: any.
            deviation: with a deviation of the size's own from the law, as the rungs have; False for the law alone.
        """
        slopes = self.slopes + self.drifts @ self.axes.coordinates(size)
        if deviation:
            own = np.random.default_rng([1, *slopes.shape]).standard_normal(slopes.shape)
            slopes = slopes + self.deviations[:, None] * own
        offsets = -np.linalg.solve(self.hessians, slopes[:, :, None])[:, :, 0]
        points = self.centre + np.clip(offsets, -_REACH, _REACH)
        along = self.rates.along("lr") if "lr" in self.names else np.zeros(len(self.names))
        return Optima(points, self.hessians, along)

    def logarithms(self, size: Size, *, deviation: bool = True) -> Array:
        """Draws of the logarithms of the best values of the parameters at a size, [S, D]."""
        points = self.optima(size, deviation=deviation).points
        return np.array([self.rates.logarithms(point) for point in points])


def fit_law(rungs: Sequence[RungTrials], names: Sequence[str], final_fraction: float, axes: Axes) -> RatioLaw:
    """The law of one arm, from its trials on all rungs.

    Args:
        rungs: trials of the same parameters, R of them.
        names: of the parameters that were searched, D of them.
        final_fraction: the base's, where it is not among them.
        axes: `identified` for these rungs.

    Raises:
        ValueError: a rung without a finished trial.

    A best embedding rate that grows with the square root of the width, found from three widths without noise:

    >>> from rlrs.transfer import identified
    >>> axes = identified([Size(w, 2, t) for w in (16, 32, 64) for t in (1e5, 2e5)])
    >>> grid = np.array([[x, y] for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)])
    >>> rungs = []
    >>> for width in (16, 32, 64):
    ...     for tokens in (1e5, 2e5):
    ...         best = np.array([0.0, 0.5 * np.log(width / 32)])
    ...         losses = 3.0 + 0.1 * ((grid @ [[1, 1], [0, 1]] - best) ** 2).sum(1)
    ...         rungs.append(RungTrials(Size(width, 2, tokens), grid, losses))
    >>> law = fit_law(rungs, ["lr", "embedding.start"], 0.1, axes)
    >>> wide, narrow = (law.logarithms(Size(w, 2, 1e5), deviation=False)[:, 1] for w in (128, 32))
    >>> print(f"{np.exp(np.median(wide - narrow)):.1f}")
    2.0
    """
    rates = Rates(names, final_fraction)
    data = _Data.gathered(rungs, rates, axes)
    fits = [_Posterior.made(data, *at) for at in itertools.product(_SCALES, _NOISES, _DEVIATIONS)]
    logs = np.array([fit.likelihood for fit in fits])
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    rng = np.random.default_rng([0, len(names), len(data.scores)])
    counts = rng.multinomial(DRAWS, weights)
    order = rng.permutation(DRAWS)  # not fit after fit: draws of different things are added one to one
    drawn = [fit.draws(data, count, rng) for fit, count in zip(fits, counts, strict=True) if count]
    coefficients = np.concatenate(drawn)[order]
    scale, deviations = (
        np.repeat([getattr(fit, name) for fit in fits], counts)[order] for name in ("scale", "deviation")
    )
    d, k = len(names), len(axes.names)
    first = len(rungs)
    drifts = coefficients[:, first + d : first + d + d * k].reshape(-1, k, d).transpose(0, 2, 1)
    second = first + d + d * k
    return RatioLaw(
        names=tuple(names),
        axes=axes,
        rates=rates,
        centre=data.centre,
        slopes=coefficients[:, first : first + d],
        drifts=drifts,
        hessians=_convex(coefficients[:, second:], d, _FLATTEST * CURVATURE_MEAN * scale),
        deviations=deviations,
        noise=float(sum(weight * fit.noise for weight, fit in zip(weights, fits, strict=True))),
    )


@dataclass(frozen=True)
class _Data:
    """All trials: offsets from the centre, features of the regression, scores above the best of the rung."""

    centre: Array
    offsets: Array
    features: Array
    scores: Array
    errors: Array
    far: Array
    same: Array
    """[N, N]: whether two trials are of one rung, times the product of their offsets."""
    rungs: int

    @classmethod
    def gathered(cls, rungs: Sequence[RungTrials], rates: Rates, axes: Axes) -> _Data:
        best, above, errors, points, places = [], [], [], [], []
        for number, rung in enumerate(rungs):
            ended = np.isfinite(rung.scores)
            if not ended.any():
                raise ValueError(f"rung {number} has no trial that finished")
            own = np.array([rates.coordinates(row) for row in rung.logarithms])
            lowest = int(np.argmin(np.where(ended, rung.scores, np.inf)))
            best.append(own[lowest])
            y = rung.scores - rung.scores[lowest]
            # A run that diverged is as bad as the worst that did not, more or less, as for a search.
            worst = max(float(y[ended].max()), 0.5)
            above.append(np.where(ended, y, worst))
            errors.append(np.where(ended, 0.0, worst / 2))
            points.append(own)
            places += [number] * len(own)
        centre = np.mean(best, axis=0)
        where = np.array(places)
        x, y = np.concatenate(points) - centre, np.concatenate(above)
        z = np.array([axes.coordinates(rung.size) for rung in rungs])[where]
        level = np.eye(len(rungs))[where]
        drift = (z[:, :, None] * x[:, None, :]).reshape(len(x), -1)
        features = np.hstack([level, x, drift, quadratic_features(x)[:, 1 + x.shape[1] :]])
        nearest = x - (np.array(best) - centre)[where]
        same = (where[:, None] == where[None, :]) * (x @ x.T)
        return cls(centre, x, features, y, np.concatenate(errors), (nearest**2).sum(1), same, len(rungs))


@dataclass(frozen=True)
class _Posterior:
    """The posterior at one point of the grid."""

    scale: float
    noise: float
    deviation: float
    likelihood: float
    prior: Array
    sd: Array
    residual: Array
    whitened: Array

    @classmethod
    def made(cls, data: _Data, scale: float, noise: float, deviation: float) -> _Posterior:
        d, r = data.offsets.shape[1], data.rungs
        pairs = d * (d - 1) // 2
        p = data.features.shape[1]
        sd = np.full(p, INTERACTION * scale)
        sd[:r], sd[r : r + d] = _LEVEL, SLOPE * scale
        sd[r + d : p - pairs - d], sd[p - pairs - d : p - pairs] = _DRIFT * scale, CURVATURE * scale
        prior = np.zeros(p)
        prior[p - pairs - d : p - pairs] = CURVATURE_MEAN * scale
        # What is far from the rung's best, or far above it, says little about the quadratic there.
        far = CUBIC * scale * data.far + 0.3 * np.maximum(0.0, data.scores - 0.1 * scale)
        weighted = data.features * sd
        covariance = weighted @ weighted.T + (deviation * scale) ** 2 * data.same
        covariance[np.diag_indices_from(covariance)] += noise**2 + far**2 + data.errors**2
        factor = np.linalg.cholesky(covariance)
        solved = np.linalg.solve(factor, np.column_stack([data.scores - data.features @ prior, weighted]))
        residual, whitened = np.asarray(solved[:, 0], np.float64), np.asarray(solved[:, 1:], np.float64)
        likelihood = -0.5 * float(residual @ residual) - float(np.log(np.diag(factor)).sum())
        return cls(scale, noise, deviation * scale, likelihood, prior, sd, residual, whitened)

    def draws(self, data: _Data, count: int, rng: np.random.Generator) -> Array:
        """Coefficients, [count, P]."""
        mean = self.prior + self.sd * (self.whitened.T @ self.residual)
        shape = np.eye(len(self.sd)) - self.whitened.T @ self.whitened  # of coefficients over the prior's deviations
        factor = np.linalg.cholesky(shape + 1e-9 * np.eye(len(self.sd)))
        return mean + self.sd * (rng.standard_normal((count, len(self.sd))) @ factor.T)


def _convex(quadratic: Array, d: int, least: Array) -> Array:
    """Hessians [S, D, D] of draws, with no curvature below the least [S]."""
    values, vectors = np.linalg.eigh(np.array([second_derivatives(row, d) for row in quadratic]))
    kept = np.maximum(values, least[:, None])
    return np.asarray((vectors * kept[:, None, :]) @ vectors.transpose(0, 2, 1))
