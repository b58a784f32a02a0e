"""A quadratic in log rates fitted to all trials: what a search has learned about the loss around its best point.

Near a minimum the loss is close to a parabola in the logarithm of each rate (the U-plots of arXiv:2507.03526), and
nearly separable in the rates that components really have: `lr * start` and `lr * final_fraction * end` (`Rates`). So
that is where the prior is diagonal: slopes around 0, curvatures around a positive value, interactions small.

Shapes: n trials, d coordinates, p coefficients of one surface, q of cheap and whole runs together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlrs.search.method import first_least

Array = NDArray[np.float64]

# Prior standard deviations per unit of natural log, in nats, before scaling. Order of magnitude from one-at-a-time
# moves by a factor of 3 on mixture-of-experts proxies; the data choose a scale between 1/4 and 8 of them.
SLOPE, CURVATURE, CURVATURE_MEAN, INTERACTION = 0.06, 0.05, 0.06, 0.015
_DIFFERENCE = 0.02
"""Of a slope between cheap and whole runs."""
_SCALES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_NOISES = (0.001, 0.002, 0.004, 0.008, 0.016)
CUBIC = 0.004
"""How far the loss is from its quadratic, in nats per squared distance, before scaling."""
TOLERANCE = 1e-7
"""Nats, or units of log likelihood: what differs by less is equal, so that no choice hangs on rounding."""


class Rates:
    """Coordinates in which the loss is near to a separable parabola, from a point's logarithms and back.

    A start counts as `log(lr * start)`. An end counts as `log(end rate + FLOOR * start rate)`: far below its start,
    an end rate makes no difference, and the logarithm alone would be a plateau without a slope to follow.

    Args:
        names: of the free parameters, d of them.
        final_fraction: the base's, where it is not among them.
    """

    FLOOR = 0.1
    """Share of the start rate below which an end rate hardly matters. Chosen on proxies of seconds."""

    def __init__(self, names: Sequence[str], final_fraction: float) -> None:
        column = {name: index for index, name in enumerate(names)}
        self._names = list(names)
        self._matrix = np.eye(len(names))
        self._pairs: list[tuple[int, int]] = []  # rows of an end and of its start
        self._constant = 0.0 if "final_fraction" in column else math.log(final_fraction)
        for name, row in column.items():
            component, _, part = name.rpartition(".")
            is_end = part == "end" or name == "final_fraction"
            if "lr" in column and (is_end or part == "start" or part.endswith("%")):
                self._matrix[row, column["lr"]] = 1.0
            if "final_fraction" in column and part == "end":
                self._matrix[row, column["final_fraction"]] = 1.0
            start = f"{component}.start" if component else "lr"
            if is_end and start in column:
                self._pairs.append((row, column[start]))
        self._inverse = np.linalg.inv(self._matrix)  # of zeros and ones, triangular but for the order: exact

    def coordinates(self, logarithms_D: Array) -> Array:
        """Coordinates [d] of a point."""
        u_D = self._matrix @ logarithms_D
        v_D = u_D.copy()
        for end, start in self._pairs:
            v_D[end] = np.logaddexp(u_D[end] + self._constant, math.log(self.FLOOR) + u_D[start])
        return v_D

    def along(self, name: str) -> Array:
        """Coordinates [d] by which a point moves when the logarithm of one parameter grows by 1.

        For an end with a floor that is so where its start moves with it, as with `lr`.
        """
        return self._matrix[:, self._names.index(name)]

    def logarithms(self, v_D: Array) -> Array:
        """Logarithms [d] of the point at these coordinates; an end below what its floor allows is nearly zero."""
        u_D = v_D.copy()
        for end, start in self._pairs:
            floor = self.FLOOR * math.exp(u_D[start])
            u_D[end] = math.log(max(math.exp(v_D[end]) - floor, 0.01 * floor)) - self._constant
        return self._inverse @ u_D


@dataclass(frozen=True)
class Surface:
    """A fitted quadratic around a centre: the posterior of its coefficients.

    Everything drawn from it comes from the prior's own coordinates, which are one per coefficient, and never from an
    eigenvector or another factor that is unique up to a sign or a rotation only: on another processor the same draws
    give the same quadratics, up to rounding.

    Args:
        mean: coefficients [p]: value, slopes [d], curvatures [d], interactions of pairs.
        noise: standard deviation of one trial's score around the quadratic near the centre, nats.
        scale: of the prior, chosen by the data.
        dimensions: d.
        fit: what the posterior was computed with.
    """

    mean: Array
    noise: float
    scale: float
    dimensions: int
    fit: _Fit

    def sample(self, generator: np.random.Generator) -> Array:
        """Coefficients drawn from the posterior [p]: a draw from the prior, corrected by what the trials say of it."""
        fit = self.fit
        prior_q, noise_n = generator.standard_normal(fit.weighted.shape[1]), generator.standard_normal(len(fit.sd_n))
        misfit_n = np.linalg.solve(fit.factor, fit.weighted @ prior_q + fit.sd_n * noise_n)
        return self.mean + fit.level @ (fit.sd_q * (prior_q - fit.whitened.T @ misfit_n))

    def value(self, x: Array) -> float:
        """The quadratic at one offset from the centre, nats."""
        return float(quadratic_features(x[None])[0] @ self.mean)

    def deviation(self, x: Array) -> float:
        """Posterior standard deviation of the difference to the centre, nats."""
        difference = quadratic_features(x[None])[0]
        difference[0] = 0.0
        weighted_q = self.fit.sd_q * (difference @ self.fit.level)
        known_n = self.fit.whitened @ weighted_q
        return math.sqrt(max(float(weighted_q @ weighted_q - known_n @ known_n), 0.0))

    def expected_gain(self, x: Array) -> float:
        """By how much a point is expected to be below the centre where it is below it, else 0, nats."""
        mean, deviation = self.value(0 * x) - self.value(x), max(self.deviation(x), 1e-12)
        z = mean / deviation
        below = 0.5 * math.erfc(-z / math.sqrt(2))
        return mean * below + deviation * math.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)

    def minimum(self, low: Array, high: Array, coefficients: Array | None = None) -> Array:
        """Where a quadratic (the mean, or a sample) is least within a box around the centre."""
        from scipy.optimize import minimize

        beta, d = self.mean if coefficients is None else coefficients, self.dimensions
        slope, hessian = beta[1 : d + 1], second_derivatives(beta[d + 1 :], d)

        def value_and_slope(x: Array) -> tuple[float, Array]:
            return float(slope @ x + 0.5 * x @ hessian @ x), slope + hessian @ x

        # A sample need not be convex: several starts, the best end; of ends that are equal but for rounding, the first.
        starts = [np.zeros(d), np.where(slope > 0, low, high)]
        ends = [
            minimize(value_and_slope, start, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)))
            for start in starts
        ]
        return np.asarray(ends[first_least([float(end.fun) for end in ends], TOLERANCE)].x)


@dataclass(frozen=True)
class _Fit:
    """Of n trials and q coefficients of cheap and whole runs together."""

    level: Array
    """[p, q]: from those to the coefficients of one surface."""
    sd_q: Array
    """The prior's standard deviations."""
    sd_n: Array
    """Standard deviations of the trials' scores."""
    weighted: Array
    """[n, q]: features times the prior's standard deviations."""
    factor: Array
    """[n, n]: Cholesky factor of the scores' covariance, which is unique."""
    whitened: Array
    """[n, q]: the inverse of `factor` times `weighted`."""


def second_derivatives(quadratic: Array, d: int) -> Array:
    """The Hessian [d, d] of a quadratic, from its coefficients: curvatures [d], then interactions of pairs."""
    hessian = np.zeros((d, d))
    hessian[np.triu_indices(d, 1)] = quadratic[d:]
    return hessian + hessian.T + np.diag(quadratic[:d])


def quadratic_features(x_nd: Array) -> Array:
    """Value, slopes, halved squares and products of pairs, [n, p]."""
    first, second = np.triu_indices(x_nd.shape[1], 1)
    return np.hstack([np.ones((len(x_nd), 1)), x_nd, 0.5 * x_nd**2, x_nd[:, first] * x_nd[:, second]])


def fit(
    x_nd: Array, y_n: Array, extra_n: Array, cheap_n: NDArray[np.bool_] | None = None, *, of_cheap: bool = False
) -> Surface:
    """Bayesian linear regression; prior scale and noise by the largest marginal likelihood on a grid.

    Cheap runs (shorter or narrower ones) are taken to have the same curvatures, and a value and slopes that differ a
    little.

    Args:
        x_nd: offsets of the trials from the centre, natural log.
        y_n: scores less the centre's, nats; those of cheap runs less a constant of their own.
        extra_n: standard deviation of what is known less well than a finished run's score, nats; 0 for those.
        cheap_n: which of the trials were cheap runs; none if None.
        of_cheap: return the surface of cheap runs in the place of whole ones.
    """
    d = x_nd.shape[1]
    cheap_n1 = np.zeros((len(x_nd), 1)) if cheap_n is None else cheap_n[:, None]
    features = np.hstack([quadratic_features(x_nd), cheap_n1, cheap_n1 * x_nd])
    q = features.shape[1]
    p = q - 1 - d  # coefficients of one surface
    level = np.eye(p, q)
    if of_cheap:
        level[: d + 1, p:] = np.eye(d + 1)
    square = (x_nd**2).sum(1)
    best: tuple[float, Surface] | None = None
    for scale, noise in itertools.product(_SCALES, _NOISES):
        sd = np.full(q, INTERACTION * scale)
        sd[0], sd[1 : d + 1], sd[d + 1 : 2 * d + 1] = 0.05 * scale, SLOPE * scale, CURVATURE * scale
        sd[p], sd[p + 1 :] = 0.1 * scale, _DIFFERENCE * scale
        prior = np.zeros(q)
        prior[d + 1 : 2 * d + 1] = CURVATURE_MEAN * scale
        # What is far away or far above says little about the quadratic here.
        far = CUBIC * scale * square + 0.3 * np.maximum(0.0, y_n - 0.1 * scale)
        variance = noise**2 + far**2 + extra_n**2
        weighted = features * sd  # [n, q]
        gram = weighted @ weighted.T + np.diag(variance)
        factor: Array = np.asarray(np.linalg.cholesky(gram), dtype=np.float64)
        residual = np.linalg.solve(factor, y_n - features @ prior)
        likelihood = -0.5 * residual @ residual - np.log(np.diag(factor)).sum()
        if best is None or likelihood > best[0] + TOLERANCE:
            whitened: Array = np.asarray(np.linalg.solve(factor, weighted), dtype=np.float64)  # [n, q]
            mean = prior + sd * (whitened.T @ residual)
            kept = _Fit(level, sd, np.sqrt(variance), weighted, factor, whitened)
            best = likelihood, Surface(level @ mean, noise, scale, d, kept)
    assert best is not None
    return best[1]
