"""Any Optuna sampler as a search method: seeded, and told its trials in the order in which it proposed them."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from rlrs.search.methods.method import Feedback, Method, Proposal, Stop
from rlrs.search.space import Space
from rlrs.settings import ConfigError

BATCH = 4
"""Proposals at a time, whatever the number of workers."""


def sampled(space: Space, sampler: BaseSampler, *, budget: int, name: str) -> Method:
    """Ask a sampler for batches of points in log coordinates, the start first.

    The sampler sees a study in memory, which is fed from the method's feedback alone: a replay after a kill asks the
    same questions and hears the same answers. A run that diverged counts as the worst score so far.

    Args:
        space: what is searched.
        sampler: seeded; its own for this search.
        budget: most runs.
        name: of the sampler, for the trials' moves.
    """
    study = optuna.create_study(sampler=sampler)
    distributions: dict[str, BaseDistribution] = {
        parameter.name: FloatDistribution(low, high)
        for parameter, (low, high) in zip(space.free, space.limits(), strict=True)
    }
    study.enqueue_trial(dict(zip(space.names, space.coordinates(space.start()), strict=True)))
    best, score, worst, done = space.start(), math.inf, -math.inf, 0
    while done < budget:
        count = min(BATCH, budget - done)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of samplers that are called experimental, or fall back by themselves
            trials = [study.ask(distributions) for _ in range(count)]
        points = [space.point([trial.params[n] for n in space.names]) for trial in trials]
        told: list[Feedback] = yield [Proposal(p, name if done + i else "start") for i, p in enumerate(points)]
        for point, feedback in zip(points, told, strict=True):
            if math.isfinite(feedback.score):
                worst = max(worst, feedback.score)
            if feedback.score < score and feedback.status == "finished":
                best, score = point, feedback.score
        for trial, feedback in zip(trials, told, strict=True):
            value = feedback.score if math.isfinite(feedback.score) else worst
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if math.isfinite(value):
                    study.tell(trial, value)
                else:
                    study.tell(trial, state=TrialState.FAIL)
        done += count
    return Stop(best, score, 1, f"the budget of {budget} runs is spent")


def sampler_at(path: str, seed: int, options: Mapping[str, Any]) -> BaseSampler:
    """A sampler by its import path, `package.module:Class` or `package.module.Class`, made with a seed and options.

    Raises:
        ConfigError: it cannot be imported, is no sampler, or does not take the options.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"search.method: cannot import {path!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise ConfigError(f"search.method: {path!r} is no Optuna sampler (a subclass of optuna.samplers.BaseSampler)")
    return _made(found, seed, options, path)


def _made(kind: type[BaseSampler], seed: int, options: Mapping[str, Any], path: str) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return kind(**{"seed": seed, **options})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"search.options: {path} cannot be made with {dict(options)}: {error}") from None
