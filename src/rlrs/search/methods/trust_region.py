"""Random search in a box around the best point so far, which grows on success and shrinks on failure."""

from __future__ import annotations

import math

import numpy as np

from rlrs.search.methods.method import Method, Proposal, Stop
from rlrs.search.space import Space

BATCH = 4
"""Proposals at a time, whatever the number of workers."""
RADIUS, LEAST, MOST = 0.7, 0.05, 2.0
"""Half-width of the box, natural log: at first (a factor of 2), at least, at most. Chosen here, not studied."""
GROW, SHRINK = 1.3, 0.75


def trust_region(space: Space, *, budget: int, seed: int) -> Method:
    """Trust-region random search, as arXiv:2512.22382 searches multipliers per module with (their constants differ).

    Args:
        space: what is searched.
        budget: most runs.
        seed: of the draws.
    """
    generator = np.random.default_rng(seed)
    low, high = map(np.array, zip(*space.limits(), strict=True))
    best, radius, rounds = space.start(), RADIUS, 1
    ((first),) = yield [Proposal(best, "start")]
    score, done = first.score, 1
    while done < budget:
        if radius < LEAST:
            return Stop(best, score, rounds, f"the trust region has shrunk below a factor of {math.exp(LEAST):.2f}")
        centre = np.array(space.coordinates(best))
        points = []
        for _ in range(min(BATCH, budget - done)):
            z = np.clip(centre + radius * generator.uniform(-1, 1, len(space)), low, high)
            points.append(space.point(z.tolist()))
        told = yield [Proposal(p, f"within a factor of {math.exp(radius):.2f}") for p in points]
        done, rounds = done + len(points), rounds + 1
        winner = min(range(len(points)), key=lambda i: (told[i].score, i))
        better = told[winner].score < score and told[winner].status == "finished"
        if better:
            best, score = points[winner], told[winner].score
        radius = min(radius * (GROW if better else SHRINK), MOST)
    return Stop(best, score, rounds, f"the budget of {budget} runs is spent")
