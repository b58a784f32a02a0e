"""Bayesian optimisation by Optuna: a Gaussian process, or the tree-structured Parzen estimator."""

from __future__ import annotations

import warnings
from typing import Literal

import optuna

from rlrs.search.methods.method import Method
from rlrs.search.methods.sampled import sampled
from rlrs.search.space import Space


def bayesian(space: Space, kind: Literal["gp", "tpe"], *, budget: int, seed: int) -> Method:
    """Model all trials, and propose where an improvement is likeliest.

    Args:
        space: what is searched.
        kind: `gp`, a Gaussian process with expected improvement, or `tpe`, Parzen estimators of good and bad points,
            multivariate, with running trials counted as bad ones.
        budget: most runs.
        seed: of the sampler.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == "gp":
            sampler: optuna.samplers.BaseSampler = optuna.samplers.GPSampler(seed=seed)
        else:
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    return sampled(space, sampler, budget=budget, name=kind)
