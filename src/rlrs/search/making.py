"""The search method that a study's settings ask for, with what is around it."""

from __future__ import annotations

import math

from rlrs.discovery import Hypergradient
from rlrs.search.earlier import Known, in_space
from rlrs.search.fidelity import LowFidelity, Retested
from rlrs.search.method import Method
from rlrs.search.methods import CheapRuns, LearnedInRuns, LocalSearch, ResponseSurface, Sampled
from rlrs.search.methods.learned import learned_knots
from rlrs.search.methods.response_surface import FIRST_MOVE
from rlrs.search.methods.sampled import check_proposes, sampler_at
from rlrs.search.pruning import Pruned
from rlrs.search.space import Space
from rlrs.settings import ConfigError, FidelityConfig, SearchConfig

NEAR = math.log(1.35)
"""First moves from a prior, natural log: a start that is near its best. Chosen on proxies of seconds."""

METHODS = ("response-surface", "local")
"""Our own that search, by their name in `search.method`; any Optuna sampler goes by its import path."""
LEARNED = "learned"
"""The one that does not."""

_OPTUNA = {"tpe": "TPESampler", "gp": "GPSampler", "cma-es": "CmaEsSampler", "random": "RandomSampler"}

CHEAP_SHARE = 0.4
"""Of a budget, what the response surface spends on cheap runs at most. Chosen on proxies of seconds."""


def make_method(space: Space, settings: SearchConfig, *, steps: int, window: int, known: Known = ()) -> Method:
    """The search method that a study's settings ask for, with their cheap trials, pruning and re-tests around it.

    Args:
        space: what is searched.
        settings: of the search; `trials` is the budget, in whole runs' worth of training steps.
        steps: of a whole run.
        window: steps over which a score is averaged.
        known: trials of an earlier search, for the response surface; their scores need not be of this size.

    Raises:
        ConfigError: no such method, or a budget too small for what is asked.

    >>> method = make_method(Space.around({"lr": 0.01}), SearchConfig(method="local", trials=8), steps=100, window=10)
    >>> [proposal.params for proposal in method.ask([])]
    [{'lr': 0.01}, {'lr': 0.002}, {'lr': 0.00666667}, {'lr': 0.015}, {'lr': 0.05}]
    """
    _check_options(settings)
    retests = settings.retest.points * settings.retest.seeds
    retests = retests if 4 * retests <= settings.trials else 0
    budget = settings.trials - retests
    fidelity = settings.fidelity
    verify = max(2, fidelity.verify) if fidelity else 0
    if budget - verify < 1:
        raise ConfigError(
            f"search.trials={settings.trials} leaves no run to search with after {retests + verify} for "
            "re-tests and verification"
        )
    if fidelity is None:
        method = _pruned(_plain(space, settings, budget, known), settings, budget, steps, window)
    elif settings.method == "response-surface":
        method = _pruned(_mixed(space, settings, fidelity, budget, steps), settings, budget, steps, window)
    else:
        short = max(1, round(fidelity.steps * steps))
        # As many more cheap runs as they have fewer steps; a narrower run counts as a whole one.
        runs = (budget - verify) * steps // short
        inner = _pruned(_plain(space, settings, runs), settings, runs, short, max(1, round(window * short / steps)))
        method = LowFidelity(inner, space, None if short == steps else short, fidelity.width, verify)
    if retests:
        method = Retested(method, settings.retest.points, settings.retest.seeds, settings.seed)
    return method


def _plain(space: Space, settings: SearchConfig, runs: int, known: Known = ()) -> Method:
    """The method without anything around it; one whose runs end early may propose more of them."""
    most = 4 * runs if settings.prune else runs
    if settings.method == LEARNED and learned_knots(space):
        return _learned(space, settings, runs)
    if settings.method in ("response-surface", LEARNED):
        # Where there is no ratio to learn, as for `uniform`, the base rate is searched with the same number of runs.
        earlier = tuple(in_space(known, space))
        return ResponseSurface(
            space, most, settings.seed, first_move=_first_move(settings, near=bool(known)), known=earlier
        )
    if settings.method == "local":
        return LocalSearch(space, settings.multipliers, settings.sweeps, most, settings.seed)
    if "." not in settings.method:
        example = _OPTUNA.get(settings.method, "TPESampler")
        raise ConfigError(
            f"search.method: no method {settings.method!r}; there are {', '.join((*METHODS, LEARNED))}, or an Optuna "
            f"sampler by its import path, as optuna.samplers.{example}"
        )
    sampler = sampler_at(settings.method, settings.seed, settings.options)
    method = Sampled(space, sampler, most, settings.method.rpartition(".")[2])
    check_proposes(method, settings.method)
    return method


def _mixed(space: Space, settings: SearchConfig, fidelity: FidelityConfig, budget: int, steps: int) -> Method:
    """The response surface on cheap runs and whole ones."""
    short = max(1, round(fidelity.steps * steps))
    cheap = CheapRuns(
        steps=None if short == steps else short,
        width=fidelity.width,
        cost=short / steps,
        budget=min(max(CHEAP_SHARE * budget, 2.0), budget - fidelity.verify),
        verify=fidelity.verify,
    )
    most = 4 * budget if settings.prune else budget
    return ResponseSurface(space, most, settings.seed, cheap, _first_move(settings))


def _check_options(settings: SearchConfig) -> None:
    """Raise a ConfigError for an option that a method given by name does not have."""
    known = _OPTIONS.get(settings.method, ())
    unknown = [name for name in settings.options if name not in known]
    if settings.method in (*METHODS, LEARNED) and unknown:
        raise ConfigError(
            f"search.options: {settings.method} has no {unknown[0]!r}; it has {', '.join(known) or 'no options'}"
        )


_OPTIONS = {"response-surface": ("first_move",), LEARNED: ("reach", "spread", "bound", "base")}
"""Of our own methods."""


def _learned(space: Space, settings: SearchConfig, runs: int) -> LearnedInRuns:
    """Runs that learn, with the options of their rule."""
    options = settings.options
    if not isinstance(options.get("base", False), bool):
        raise ConfigError(f"search.options.base: should be true or false, not {options['base']!r}")
    try:
        Hypergradient(**options)
    except ValueError as error:
        raise ConfigError(f"search.options.{error}") from None
    return LearnedInRuns(space, runs, **options)


def _first_move(settings: SearchConfig, *, near: bool = False) -> float:
    """The option `first_move`, a factor, as the natural log that the response surface takes."""
    if "first_move" not in settings.options:
        return NEAR if near or settings.prior is not None else FIRST_MOVE
    factor = settings.options["first_move"]
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= 8:
        raise ConfigError(f"search.options.first_move: should be a factor above 1, at most 8, not {factor!r}")
    return math.log(factor)


def _pruned(method: Method, settings: SearchConfig, runs: int, steps: int, window: int) -> Method:
    """The method with its runs ended early, where the settings ask for that."""
    return Pruned(method, steps, window, runs, settings.prune) if settings.prune else method
