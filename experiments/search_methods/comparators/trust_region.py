"""Random search in a box around the best point so far, which grows on success and shrinks on failure."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlrs.records import Proposal, SearchResult
from rlrs.search import History, Space
from rlrs.search.method import batches, lowest

BATCH = 4
"""Proposals at a time, whatever the number of workers."""
RADIUS, LEAST, MOST = 0.7, 0.05, 2.0
"""Half-width of the box, natural log: at first (a factor of 2), at least, at most. Chosen here, not studied."""
GROW, SHRINK = 1.3, 0.75


@dataclass(frozen=True)
class TrustRegion:
    """Trust-region random search, as arXiv:2512.22382 searches multipliers per module with (their constants differ).

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the draws; each batch has draws of its own.
    """

    space: Space
    budget: int
    seed: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """Points in the box around the best one; see `Method.ask`."""
        if not history:
            return [Proposal(params=self.space.start(), move="start", memo={"radius": RADIUS})]
        if len(history) >= self.budget:
            return self.result(history, f"the budget of {self.budget} runs is spent")
        radius = self._radius(history)
        if radius < LEAST:
            return self.result(history, f"the trust region has shrunk below a factor of {math.exp(LEAST):.2f}")
        generator = np.random.default_rng([self.seed, len(batches(history))])
        low, high = map(np.array, zip(*self.space.limits(), strict=True))
        centre = np.array(self.space.coordinates(lowest(history, "", 0).best))
        draws = generator.uniform(-1, 1, (min(BATCH, self.budget - len(history)), len(self.space)))
        move = f"within a factor of {math.exp(radius):.2f}"
        return [
            Proposal(
                params=self.space.point(np.clip(centre + radius * draw, low, high).tolist()),
                move=move,
                memo={"radius": radius},
            )
            for draw in draws
        ]

    def result(self, history: History, reason: str) -> SearchResult:
        """The point with the lowest score."""
        return lowest(history, reason, len(batches(history)))

    @staticmethod
    def _radius(history: History) -> float:
        """Of the next box: the last one's, which the last batch notes, grown if that batch has the best point."""
        *before, last = batches(history)
        radius = last[0].memo["radius"]
        if not before:
            return radius
        known = min(trial.score for batch in before for trial in batch)
        better = any(trial.measured and trial.score < known for trial in last)
        return min(radius * (GROW if better else SHRINK), MOST)
