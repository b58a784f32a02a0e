"""Joint moves to the minimum of a quadratic that is fitted to all trials so far, each verified by a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rlrs.search.methods.method import Feedback, Method, Proposal, Stop
from rlrs.search.space import Space
from rlrs.search.surface import Array, Rates, Surface, fit

BATCH = 4
"""Proposals at a time, whatever the number of workers."""
FIRST_MOVE = 0.4
"""Size of the first moves, natural log (a factor of 1.5). Chosen on proxies of seconds."""
RADIUS = (0.1, 2.0)
"""Least and largest half-width of the trust region, natural log."""
GROW, SHRINK = 1.25, 0.7
PATIENCE = 3
"""Rounds in a row in which less than the noise was to be gained, after which the search stops."""


def response_surface(space: Space, *, budget: int, seed: int) -> Method:
    """Newton-like search: in the place of four runs per parameter and sweep, moves of all parameters at once.

    It starts with pairs of opposite joint moves, which tell all slopes. Then, batch by batch, a quadratic is fitted
    to all trials (`rlrs.search.surface`), and its minimum within a trust region around the best point is trained,
    beside minima of quadratics drawn from the posterior, which explore where the fit is unsure. The region grows
    when the minimum is better than what was known, and shrinks when nothing is.

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the random draws.
    """
    search = _Search(space, np.random.default_rng(seed))
    told = yield (batch := search.opening(budget))
    search.learn(batch, told)
    while len(search.scores) < budget:
        batch = search.moves(min(BATCH, budget - len(search.scores)))
        if not batch:
            return search.stop(search.reason)
        told = yield batch
        search.learn(batch, told)
    return search.stop(f"the budget of {budget} runs is spent")


@dataclass
class _Search:
    space: Space
    generator: np.random.Generator
    radius: float = 2 * FIRST_MOVE
    rounds: int = 0
    reason: str = ""
    points: list[dict[str, float]] = field(default_factory=list)
    offsets: list[Array] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    measured: list[bool] = field(default_factory=list)
    best: int = 0
    quiet: int = 0

    def __post_init__(self) -> None:
        start = self.space.start()
        self.coordinates = Rates(self.space.names, start.get("final_fraction", 1.0))
        self.low, self.high = map(np.array, zip(*self.space.limits(), strict=True))

    def point(self, v: Array) -> dict[str, float]:
        return self.space.point(np.clip(self.coordinates.back(v), self.low, self.high).tolist())

    def rates(self, point: dict[str, float]) -> Array:
        return self.coordinates.of(np.array(self.space.coordinates(point)))

    def opening(self, budget: int) -> list[Proposal]:
        """The start, and pairs of opposite moves of all parameters together."""
        start = self.space.start()
        centre, d = self.rates(start), len(self.space)
        proposals = [Proposal(start, "start")]
        for _ in range(4):
            move = FIRST_MOVE * self.generator.choice([-1.0, 1.0], d)
            proposals += [Proposal(self.point(centre + sign * move), "joint move") for sign in (1, -1)]
        return proposals[:budget]

    def learn(self, batch: list[Proposal], told: list[Feedback]) -> None:
        """Note what came of a batch; the trust region follows."""
        first = len(self.scores)
        for proposal, feedback in zip(batch, told, strict=True):
            self.points.append(proposal.params)
            self.offsets.append(self.rates(proposal.params))
            self.scores.append(feedback.score)
            self.errors.append(feedback.error)
            self.measured.append(feedback.status == "finished")
        self.best = min(range(len(self.scores)), key=lambda i: (not self.measured[i], self.scores[i], i))
        self.rounds += 1
        if first:  # the opening says nothing of the region
            # The first of a batch is the surface's own minimum: where that is best, the surface may be trusted further.
            factor = GROW if self.best == first else 1.0 if self.best > first else SHRINK
            self.radius = min(max(self.radius * factor, RADIUS[0]), RADIUS[1])

    def surface(self) -> Surface:
        """The quadratic around the best point."""
        x = np.array(self.offsets) - self.offsets[self.best]
        centre = self.scores[self.best] if math.isfinite(self.scores[self.best]) else 0.0
        y = np.array(self.scores) - centre
        # A run that diverged is as bad as the worst that did not, more or less.
        worst = max(float(np.max(y[np.isfinite(y)], initial=0.0)), 0.5)
        error = np.where(np.isfinite(y), self.errors, worst / 2)
        return fit(x, np.where(np.isfinite(y), y, worst), error)

    def moves(self, count: int) -> list[Proposal]:
        """The minimum of the fitted quadratic, and minima of drawn ones; none when nothing more is to be expected."""
        surface, centre = self.surface(), self.offsets[self.best]
        box = np.full(len(self.space), self.radius)
        x = surface.minimum(-box, box)
        expected = surface.value(0 * x) - surface.value(x)
        self.quiet = self.quiet + 1 if expected < surface.noise else 0
        if self.quiet >= PATIENCE:
            self.reason = (
                f"the surface expects {max(expected, 0.0):.4f} nats more, less than the noise of a trial, "
                f"{surface.noise:.4f} nats"
            )
            return []
        drawn = [surface.minimum(-box, box, surface.sample(self.generator)) for _ in range(count - 1)]
        return [
            Proposal(self.point(centre + x), f"minimum of the surface, {expected:.4f} nats lower expected"),
            *(Proposal(self.point(centre + x), "minimum of a drawn surface") for x in drawn),
        ]

    def stop(self, reason: str) -> Stop:
        return Stop(self.points[self.best], self.scores[self.best], self.rounds, reason)
