"""The paper's local search: one parameter at a time, a few multiples of its value, the best kept."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rlrs.search.methods.method import Method, Proposal, Stop
from rlrs.search.space import Point, Space


def local_search(space: Space, *, multipliers: Sequence[float], sweeps: int, budget: int, seed: int) -> Method:
    """Coordinate search as in arXiv:2507.03526, section on tuning.

    In each sweep, parameters come in random order. Each is tried at its current value times every multiplier,
    side by side; the best replaces the current point if it beats the best score so far. The first batch also
    has the starting point. It stops after a sweep without a change, after `sweeps`, or when `budget` is spent.

    A point that was tried before is not tried again and costs nothing. Values are rounded to six significant
    digits, so that going up and down again is the same point.

    Args:
        space: what is searched, and where it starts.
        multipliers: of a parameter's current value.
        sweeps: most passes over all parameters.
        budget: most points that are tried.
        seed: of the order of parameters.
    """
    order = random.Random(seed)
    current = space.start()
    scores: dict[tuple[float, ...], float] = {}
    best, names = math.inf, list(space.names)

    def stop(reason: str, sweep: int) -> Stop:
        return Stop(current, best, sweep, reason)

    for sweep in range(1, sweeps + 1):
        changed = False
        order.shuffle(names)
        for name in names:
            candidates = [] if scores else [Proposal(dict(current), "start")]
            candidates += _moves(space, current, name, multipliers)
            fresh = [c for c in candidates if tuple(c.params.values()) not in scores][: budget - len(scores)]
            if fresh:
                for proposal, feedback in zip(fresh, (yield fresh), strict=True):
                    scores[tuple(proposal.params.values())] = feedback.score
            tried = [c for c in candidates if tuple(c.params.values()) in scores]
            winner = min(tried, key=lambda c: scores[tuple(c.params.values())], default=None)
            if winner is not None and scores[tuple(winner.params.values())] < best:
                best = scores[tuple(winner.params.values())]
                changed = changed or winner.params != current
                current = winner.params
            if len(scores) >= budget:
                return stop(f"the budget of {budget} runs is spent", sweep)
        if not changed:
            return stop("a whole sweep changed nothing", sweep)
    return stop(f"{sweeps} sweeps are done", sweeps)


def _moves(space: Space, current: Point, name: str, multipliers: Sequence[float]) -> list[Proposal]:
    moves = []
    for multiplier in multipliers:
        point = space.moved(current, name, multiplier)
        if point is not None:
            moves.append(Proposal(point, f"{name} {current[name]:.4g} -> {point[name]:.4g}"))
    return moves
