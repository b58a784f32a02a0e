"""Search methods, one file each, and the one that a study's settings ask for."""

from __future__ import annotations

import math
from collections.abc import Callable

from rlrs.search.methods.bayesian import bayesian
from rlrs.search.methods.bracket import bracket
from rlrs.search.methods.cma_es import cma_es
from rlrs.search.methods.local import local_search
from rlrs.search.methods.method import Feedback, Method, Proposal, Stop, ended
from rlrs.search.methods.policy_gradient import policy_gradient
from rlrs.search.methods.random_search import random_search
from rlrs.search.methods.response_surface import FIRST_MOVE, Cheap, response_surface
from rlrs.search.methods.sampled import sampled, sampler_at
from rlrs.search.methods.trust_region import trust_region
from rlrs.search.pruning import pruned
from rlrs.search.space import Space
from rlrs.search.verification import cheap, retested
from rlrs.settings import ConfigError, FidelityConfig, SearchConfig

__all__ = [
    "METHODS",
    "Feedback",
    "Method",
    "Proposal",
    "Stop",
    "bracket",
    "ended",
    "local_search",
    "method_of",
]

Maker = Callable[[Space, SearchConfig, int], Method]

METHODS: dict[str, Maker] = {
    "local": lambda space, s, n: local_search(space, multipliers=s.multipliers, sweeps=s.sweeps, budget=n, seed=s.seed),
    "trust-region": lambda space, s, n: trust_region(space, budget=n, seed=s.seed),
    "gp": lambda space, s, n: bayesian(space, "gp", budget=n, seed=s.seed),
    "tpe": lambda space, s, n: bayesian(space, "tpe", budget=n, seed=s.seed),
    "cma-es": lambda space, s, n: cma_es(space, budget=n, seed=s.seed),
    "response-surface": lambda space, s, n: response_surface(space, budget=n, seed=s.seed, first_move=_first_move(s)),
    "policy-gradient": lambda space, s, n: policy_gradient(space, budget=n, seed=s.seed),
    "random": lambda space, s, n: random_search(space, budget=n, seed=s.seed),
}
"""Name in `search.method` -> what makes it from a space, the settings, and a budget of whole runs."""

CHEAP_SHARE = 0.4
"""Of a budget, what the response surface spends on cheap runs at most. Chosen on proxies of seconds."""


def method_of(space: Space, settings: SearchConfig, *, steps: int, window: int) -> Method:
    """The search method that a study's settings ask for, with their cheap trials, pruning and re-tests around it.

    Args:
        space: what is searched.
        settings: of the search; `trials` is the budget, in whole runs' worth of training steps.
        steps: of a whole run.
        window: steps over which a score is averaged.

    Raises:
        ConfigError: no such method, or a budget too small for what is asked.
    """
    _check_options(settings)
    retests = settings.retest.points * settings.retest.seeds
    retests = retests if 4 * retests <= settings.trials else 0
    budget = settings.trials - retests
    fidelity = settings.fidelity
    verify = max(2, fidelity.verify) if fidelity else 0
    if budget - verify < 1:
        raise ConfigError(
            f"search.trials: {settings.trials} runs leave none to search with after {retests + verify} for "
            "re-tests and verification"
        )
    if fidelity is None:
        method = _limited(_method(space, settings, budget), settings, budget, steps, window)
    elif settings.method == "response-surface":
        method = _limited(_both(space, settings, fidelity, budget, steps), settings, budget, steps, window)
    else:
        short = max(1, round(fidelity.steps * steps))
        # As many more cheap runs as they have fewer steps; a narrower run counts as a whole one.
        runs = (budget - verify) * steps // short
        method = _limited(_method(space, settings, runs), settings, runs, short, max(1, round(window * short / steps)))
        method = cheap(method, steps=None if short == steps else short, width=fidelity.width, verify=verify)
    if retests:
        method = retested(method, points=settings.retest.points, seeds=settings.retest.seeds, seed=settings.seed)
    return method


def _method(space: Space, settings: SearchConfig, runs: int) -> Method:
    """The method without anything around it; one whose runs end early may propose more of them."""
    most = 4 * runs if settings.prune else runs
    if (maker := METHODS.get(settings.method)) is not None:
        return maker(space, settings, most)
    if "." not in settings.method:
        raise ConfigError(
            f"search.method: no method {settings.method!r}; there are {', '.join(METHODS)}, or an Optuna sampler by "
            "its import path, as optuna.samplers.QMCSampler"
        )
    sampler = sampler_at(settings.method, settings.seed, settings.options)
    return sampled(space, sampler, budget=most, name=settings.method.rpartition(".")[2])


def _both(space: Space, settings: SearchConfig, fidelity: FidelityConfig, budget: int, steps: int) -> Method:
    """The response surface on cheap runs and whole ones."""
    short = max(1, round(fidelity.steps * steps))
    cheap_runs = Cheap(
        steps=None if short == steps else short,
        width=fidelity.width,
        cost=short / steps,
        budget=min(max(CHEAP_SHARE * budget, 2.0), budget - fidelity.verify),
        verify=fidelity.verify,
    )
    most = 4 * budget if settings.prune else budget
    return response_surface(space, budget=most, seed=settings.seed, cheap=cheap_runs, first_move=_first_move(settings))


def _check_options(settings: SearchConfig) -> None:
    """Raise a ConfigError for an option that a method given by name does not have."""
    known = ("first_move",) if settings.method == "response-surface" else ()
    unknown = [name for name in settings.options if name not in known]
    if settings.method in METHODS and unknown:
        raise ConfigError(
            f"search.options: {settings.method} has no {unknown[0]!r}; it has {', '.join(known) or 'no options'}"
        )


def _first_move(settings: SearchConfig) -> float:
    """The option `first_move`, a factor, as the natural log that the response surface takes."""
    if "first_move" not in settings.options:
        return FIRST_MOVE
    factor = settings.options["first_move"]
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 1 < factor <= 8:
        raise ConfigError(f"search.options.first_move: should be a factor above 1, at most 8, not {factor!r}")
    return math.log(factor)


def _limited(method: Method, settings: SearchConfig, runs: int, steps: int, window: int) -> Method:
    """The method with its runs ended early, where the settings ask for that."""
    if not settings.prune:
        return method
    return pruned(method, steps=steps, window=window, budget=runs, error=settings.prune)
