"""Ladders of searches whose truth is known: losses from a planted law, with run-to-run noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlrs.records import RunResult, SearchResult, Trial
from rlrs.search import Bracket, ResponseSurface, Space
from rlrs.search.surface import Rates
from rlrs.transfer import Optima, RatioLaw, RungTrials, Size, fit_law, identified

Array = NDArray[np.float64]

START = {"lr": 8e-3, "final_fraction": 0.1, "embedding.start": 3.0, "embedding.end": 1.0, "router.start": 2.0}
RUNGS = [(width, tokens) for width in (16, 24, 32) for tokens in (1e5, 2e5)]
TARGET = Size(64, 2, 4e5)
FINAL_FRACTION = 0.1
NOISE = 0.006
"""Of a run's score, nats."""


@dataclass
class Planted:
    """A quadratic whose best point moves with width and tokens.

    Args:
        best: [D], at the ladder's middle, in the surface's coordinates.
        drift: [D, 2]: by the logarithms of width and tokens.
        hessian: [D, D].
    """

    best: Array
    drift: Array
    hessian: Array

    def optimum(self, width: float, tokens: float) -> Array:
        """The best point [D] at a size."""
        return self.best + self.drift @ [np.log(width / 24), np.log(tokens / 1.5e5)]


def plant(
    space: Space, rng: np.random.Generator, embedding: float = 0.5, router_best: tuple[float, float] | None = None
) -> Planted:
    """Curvatures as they were met, a base rate that falls with the width, and an embedding that does not fall as fast.

    Args:
        space: that is searched.
        rng: of the truth.
        embedding: power of the width by which the embedding's best ratio grows.
        router_best: (ratio at the ladder's middle, power of the width); drawn, and 0, if None.
    """
    rates, d = Rates(space.names, FINAL_FRACTION), len(space.names)
    noise = 0.1 * rng.standard_normal((d, d))
    root = np.diag(np.sqrt(rng.uniform(0.03, 0.25, d)))
    best = rates.coordinates(np.array(space.coordinates(space.start()))) + rng.normal(0, 0.4, d)
    drift = np.tile([-0.5, -0.1], (d, 1))
    for row, name in enumerate(space.names):
        if name.startswith("embedding"):
            drift[row, 0] += embedding
        if name == "router.start" and router_best is not None:
            best[row] = best[space.names.index("lr")] + np.log(router_best[0])
            drift[row, 0] += router_best[1]
    return Planted(best, drift, root @ (np.eye(d) + 0.15 * (noise + noise.T)) @ root)


def searched(
    space: Space, truth: Planted, best: Array, rng: np.random.Generator, trials: int, noise: float
) -> tuple[list[Trial], dict[str, float]]:
    """The trials of a search on a rung with this best point, by the default method, and the point that it found."""
    rates = Rates(space.names, FINAL_FRACTION)
    method = ResponseSurface(space, trials, 0)
    history: list[Trial] = []
    while not isinstance(asked := method.ask(history), SearchResult):
        batch = history[-1].batch + 1 if history else 0
        for proposal in asked:
            offset = rates.coordinates(np.array(space.coordinates(proposal.params))) - best
            score = float(3.0 + 0.5 * offset @ truth.hessian @ offset + noise * rng.standard_normal())
            result = RunResult(status="finished", steps=1, score=score, valid_loss=None, tokens=1, seconds=0)
            history.append(Trial(**dict(proposal), number=len(history), batch=batch, run="run", result=result))
    return history, asked.best


@dataclass
class Simulated:
    """A ladder whose truth is known.

    Args:
        space: that was searched on every rung.
        truth: planted.
        law: that was fitted.
        found: the point that the search on the last rung found.
        best: the true best point at the target, [D].
    """

    space: Space
    truth: Planted
    law: RatioLaw
    found: dict[str, float]
    best: Array

    def tuned(self, point: Mapping[str, float], noise: float, seed: int) -> float:
        """Logarithm of the base rate that tuning at the target finds with a point's ratios, from the point's own."""
        rng, method, history = np.random.default_rng([seed, 3]), Bracket("lr", point["lr"], 2.0, 5), list[Trial]()
        while not isinstance(asked := method.ask(history), SearchResult):
            for proposal in asked:
                at = self.law.rates.coordinates(np.array(self.space.coordinates({**point, **proposal.params})))
                offset = at - self.best
                score = float(3.0 + 0.5 * offset @ self.truth.hessian @ offset + noise * rng.standard_normal())
                result = RunResult(status="finished", steps=1, score=score, valid_loss=None, tokens=1, seconds=0)
                history.append(Trial(**dict(proposal), number=len(history), batch=0, run="run", result=result))
        return float(np.log(asked.best["lr"]))

    def penalty(self, point: Mapping[str, float]) -> float:
        """True loss of a point above the best one at the target, base rate tuned again, nats."""
        one = Optima(self.best[None], self.truth.hessian[None], self.law.rates.along("lr"))
        return float(one.penalty(self.law.rates.coordinates(np.array(self.space.coordinates(point))))[0])


def simulate(
    seed: int,
    trials: int = 20,
    noise: float = NOISE,
    embedding: float = 0.5,
    router_best: tuple[float, float] | None = None,
    deviation: float = 0.0,
) -> Simulated:
    """A ladder of searches on planted losses, and the law that is fitted to them.

    Args:
        seed: of the truth and of the noise.
        trials: on each rung.
        noise: of a trial's score, nats.
        embedding: see `plant`.
        router_best: see `plant`.
        deviation: of every rung's best point, and the target's, from the law, natural log.
    """
    rng, space = np.random.default_rng(seed), Space.around(START)
    truth = plant(space, rng, embedding, router_best)

    def best(size: Size) -> Array:
        own = deviation * rng.standard_normal(len(space.names)) if deviation else 0.0
        return truth.optimum(size.width, size.tokens) + own

    rungs: list[RungTrials] = []
    found: dict[str, float] = {}
    for width, tokens in RUNGS:
        size = Size(width, 2, tokens)
        history, found = searched(space, truth, best(size), rng, trials, noise)
        points, scores = [trial.params for trial in history], [trial.score for trial in history]
        rungs.append(RungTrials.from_points(size, space, points, scores))
    axes = identified([rung.size for rung in rungs])
    law = fit_law(rungs, space.names, FINAL_FRACTION, axes)
    return Simulated(space, truth, law, found, best(TARGET))
