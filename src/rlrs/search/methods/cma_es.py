"""Covariance matrix adaptation by Optuna, from the start outwards."""

from __future__ import annotations

import warnings

import optuna

from rlrs.search.methods.method import Method
from rlrs.search.methods.sampled import sampled
from rlrs.search.space import Space

STEP = 0.4
"""First standard deviation, natural log (a factor of 1.5): that of the other methods' first moves."""


def cma_es(space: Space, *, budget: int, seed: int) -> Method:
    """Draw from a normal distribution over log parameters, and move and shape it by the ranks of the scores.

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the sampler.
    """
    start = dict(zip(space.names, space.coordinates(space.start()), strict=True))
    with warnings.catch_warnings():
        # `x0` goes in Optuna 6 with nothing named in its place; without it the first generation is drawn from the
        # middle of the space, far from where a search starts.
        warnings.simplefilter("ignore", FutureWarning)
        sampler = optuna.samplers.CmaEsSampler(x0=start, sigma0=STEP, seed=seed, warn_independent_sampling=False)
    return sampled(space, sampler, budget=budget, name="cma-es")
