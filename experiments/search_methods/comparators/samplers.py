"""Optuna's samplers as comparators, told their trials in the order of proposal; the start is the first."""

from __future__ import annotations

from typing import Any

from rlrs.search import Space
from rlrs.search.methods import Sampled
from rlrs.search.methods.sampled import sampler_at

STEP = 0.4
"""First standard deviation of CMA-ES, natural log (a factor of 1.5): that of the other methods' first moves."""


def gp(space: Space, budget: int, seed: int) -> Sampled:
    """A Gaussian process with expected improvement."""
    return _sampled(space, budget, seed, "gp", "GPSampler", {})


def tpe(space: Space, budget: int, seed: int) -> Sampled:
    """Parzen estimators of good and bad points, multivariate, with running trials counted as bad ones."""
    return _sampled(space, budget, seed, "tpe", "TPESampler", {"multivariate": True, "constant_liar": True})


def cma_es(space: Space, budget: int, seed: int) -> Sampled:
    """Draw from a normal distribution over log parameters, and move and shape it by the ranks of the scores.

    Without `x0` its first generation would be drawn from the middle of the space, far from where a search starts.
    """
    start = dict(zip(space.names, space.coordinates(space.start()), strict=True))
    options = {"x0": start, "sigma0": STEP, "warn_independent_sampling": False}
    return _sampled(space, budget, seed, "cma-es", "CmaEsSampler", options)


def random(space: Space, budget: int, seed: int) -> Sampled:
    """Points drawn evenly from the logarithms of the whole space: what every other method has to beat."""
    return _sampled(space, budget, seed, "random", "RandomSampler", {})


def _sampled(space: Space, budget: int, seed: int, name: str, sampler: str, options: dict[str, Any]) -> Sampled:
    return Sampled(space, sampler_at(f"optuna.samplers.{sampler}", seed, options), budget, name)
