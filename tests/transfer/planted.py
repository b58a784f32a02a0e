"""Ladders of searches whose truth is known: losses from a planted law, with run-to-run noise."""

from dataclasses import dataclass

import numpy as np

from rlrs.records import RunResult, SearchResult, Trial
from rlrs.search import ResponseSurface, Space
from rlrs.search.surface import Rates
from rlrs.transfer import RungTrials, Size, fit_law, identified

START = {"lr": 8e-3, "final_fraction": 0.1, "embedding.start": 3.0, "embedding.end": 1.0, "router.start": 2.0}
RUNGS = [(width, tokens) for width in (16, 24, 32) for tokens in (1e5, 2e5)]
TARGET = Size(64, 2, 4e5)
FINAL_FRACTION = 0.1


@dataclass
class Planted:
    """A quadratic whose best point moves with width and tokens.

    Args:
        best: [D], at the ladder's middle, in the surface's coordinates.
        drift: [D, 2]: by the logarithms of width and tokens.
        hessian: [D, D].
    """

    best: np.ndarray
    drift: np.ndarray
    hessian: np.ndarray

    def optimum(self, width, tokens):
        return self.best + self.drift @ [np.log(width / 24), np.log(tokens / 1.5e5)]


def plant(space, rng, embedding=0.5, router_best=None):
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


def searched(space, truth, width, tokens, rng, trials, noise):
    """The trials of a search on one rung, by the default method."""
    rates, best = Rates(space.names, FINAL_FRACTION), truth.optimum(width, tokens)
    method, history = ResponseSurface(space, trials, 0), []
    while not isinstance(asked := method.ask(history), SearchResult):
        batch = history[-1].batch + 1 if history else 0
        for proposal in asked:
            offset = rates.coordinates(np.array(space.coordinates(proposal.params))) - best
            score = 3.0 + 0.5 * offset @ truth.hessian @ offset + noise * rng.standard_normal()
            result = RunResult(status="finished", steps=1, score=score, valid_loss=None, tokens=1, seconds=0)
            history.append(Trial(**dict(proposal), number=len(history), batch=batch, run="run", result=result))
    return history, asked.best


def ladder(seed, trials=20, noise=0.006, **planted):
    """A space, its truth, the law of a simulated ladder and what the search on its last rung found."""
    rng, space = np.random.default_rng(seed), Space.around(START)
    truth = plant(space, rng, **planted)
    rungs, found = [], None
    for width, tokens in RUNGS:
        history, found = searched(space, truth, width, tokens, rng, trials, noise)
        points, scores = [trial.params for trial in history], [trial.score for trial in history]
        rungs.append(RungTrials.from_points(Size(width, 2, tokens), space, points, scores))
    axes = identified([rung.size for rung in rungs])
    return space, truth, fit_law(rungs, space.names, FINAL_FRACTION, axes), found
