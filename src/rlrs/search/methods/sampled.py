"""Any Optuna sampler as a search method: seeded, and told its trials in the order in which it proposed them."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from rlrs.messages import plural, shown
from rlrs.records import Proposal, SearchResult, Trial
from rlrs.search.method import History, batches, lowest
from rlrs.search.space import Space
from rlrs.settings import ConfigError

BATCH = 4
"""Proposals at a time, whatever the number of workers."""


@dataclass
class _Told:
    """A sampler's study in memory, and what it was told: kept between two calls, made again where they disagree."""

    study: optuna.Study
    history: list[Trial] = field(default_factory=list)
    asked: list[optuna.Trial] = field(default_factory=list)
    worst: float = -math.inf


@dataclass(frozen=True)
class Sampled:
    """Ask a sampler for batches of points in log coordinates, the start first.

    The sampler sees a study in memory, which is told the history alone, in order, with the recorded values. A run that
    diverged counts as the worst score so far.

    Args:
        space: what is searched.
        sampler: makes the sampler, seeded, anew.
        budget: most runs.
        name: of the sampler, for the trials' moves.
    """

    space: Space
    sampler: Callable[[], BaseSampler]
    budget: int
    name: str
    _memory: list[_Told] = field(default_factory=list, repr=False, compare=False)

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The sampler's next points; see `Method.ask`."""
        if len(history) >= self.budget:
            return self.result(history, f"the budget of {plural(self.budget, 'run')} is spent")
        told = self._told(history)
        told.asked = self._asked(told, min(BATCH, self.budget - len(history)))
        return [
            Proposal(params=self._point(trial), move=self.name if len(history) + i else "start")
            for i, trial in enumerate(told.asked)
        ]

    def result(self, history: History, reason: str) -> SearchResult:
        """The point with the lowest score."""
        return lowest(history, reason, 1)

    def _told(self, history: History) -> _Told:
        told = self._memory[0] if self._memory else None
        if told is None or told.history != list(history[: len(told.history)]):
            with _silent():
                told = _Told(optuna.create_study(sampler=self.sampler()))
            start = self.space.coordinates(self.space.start())
            told.study.enqueue_trial(dict(zip(self.space.names, start, strict=True)))
            self._memory[:] = [told]
        for batch in batches(history[len(told.history) :]):
            asked = told.asked if len(told.asked) == len(batch) else self._asked(told, len(batch))
            told.asked = []
            self._tell(told, asked, batch)
        return told

    def _asked(self, told: _Told, count: int) -> list[optuna.Trial]:
        distributions: dict[str, BaseDistribution] = {
            parameter.name: FloatDistribution(low, high)
            for parameter, (low, high) in zip(self.space.free, self.space.limits(), strict=True)
        }
        with _silent():  # of samplers that are called experimental, or fall back by themselves
            return [told.study.ask(distributions) for _ in range(count)]

    def _point(self, trial: optuna.Trial) -> dict[str, float]:
        return self.space.point([trial.params[name] for name in self.space.names])

    def _tell(self, told: _Told, asked: Sequence[optuna.Trial], batch: Sequence[Trial]) -> None:
        for trial in batch:
            if math.isfinite(trial.score):
                told.worst = max(told.worst, trial.score)
        for mine, recorded in zip(asked, batch, strict=True):
            if self._point(mine) != recorded.params:  # proposed elsewhere: what was recorded counts
                for parameter, (low, high) in zip(self.space.free, self.space.limits(), strict=True):
                    at = min(max(parameter.coordinate(recorded.params[parameter.name]), low), high)
                    distribution = FloatDistribution(low, high)
                    told.study._storage.set_trial_param(mine._trial_id, parameter.name, at, distribution)
            value = recorded.score if math.isfinite(recorded.score) else told.worst
            with _silent():
                if math.isfinite(value):
                    told.study.tell(mine, value)
                else:
                    told.study.tell(mine, state=TrialState.FAIL)
        told.history += batch


def sampler_at(path: str, seed: int, options: Mapping[str, Any]) -> Callable[[], BaseSampler]:
    """What makes a sampler by its import path, `package.module:Class` or `package.module.Class`, with seed and options.

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

    def make() -> BaseSampler:
        with _silent():
            return found(**{"seed": seed, **options})

    try:
        make()
    except ImportError:
        raise
    except Exception as error:  # whatever a sampler of somebody else's raises
        raise ConfigError(f"search.options: {path} cannot be made with {dict(options)}: {error}") from None
    return make


def check_proposes(method: Sampled, path: str) -> None:
    """See that a sampler can propose points of the space that it is given; the method itself is asked for nothing.

    Raises:
        ConfigError: it cannot: a grid of other parameters, or one without enough points.
    """
    try:
        replace(method, _memory=[]).ask([])
    except ImportError:
        raise
    except Exception as error:  # whatever a sampler of somebody else's raises
        raise ConfigError(
            f"search.method: {path} cannot propose points of this space ({', '.join(method.space.names)}): "
            f"{shown(str(error), 300)}"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
