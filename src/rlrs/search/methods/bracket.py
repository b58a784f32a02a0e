"""One parameter on a geometric grid: downhill from the start until both neighbours of the best are worse."""

from __future__ import annotations

import math

from rlrs.search.methods.method import Method, Proposal, Stop, rounded
from rlrs.search.space import bounds


def bracket(name: str, start: float, *, factor: float, budget: int) -> Method:
    """Tune one parameter that a smaller model gave a first guess of; downward first, as larger models want it.

    It tries the start and the next lower grid point, then goes on in the direction that is better, one point at a
    time, and stops when the best point has a worse one on both sides, or the budget is spent.

    Args:
        name: of the parameter; `lr` for a base rate.
        start: first guess, a point of the grid.
        factor: grid ratio, above 1.
        budget: most points that are tried, at least 1.
    """
    low, high = bounds(name)
    scores: dict[int, float] = {}

    def proposal(exponent: int) -> Proposal:
        value = rounded(start * factor**exponent)
        return Proposal({name: value}, "start" if exponent == 0 else f"{name} {start:.4g} -> {value:.4g}")

    def allowed(exponent: int) -> bool:
        return low <= start * factor**exponent <= high

    wanted = [0, *(e for e in (-1,) if allowed(e))]
    while True:
        batch = wanted[: budget - len(scores)]
        feedback = yield [proposal(e) for e in batch]
        scores |= zip(batch, (f.score for f in feedback), strict=True)
        best = min(scores, key=lambda e: (scores[e], e))
        # When all diverged, only lower can help.
        neighbours = (min(scores) - 1,) if math.isinf(scores[best]) else (best - 1, best + 1)
        open_sides = [e for e in neighbours if e not in scores and allowed(e)]
        if not open_sides or len(scores) >= budget:
            break
        wanted = open_sides[:1]
    if not open_sides:
        reason = "the rates tried on both sides are worse"
    else:
        reason = f"the budget of {budget} runs is spent with the best at the edge of what was tried"
    return Stop(proposal(best).params, scores[best], 1, reason)
