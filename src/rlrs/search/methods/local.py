"""The paper's local search: one parameter at a time, a few multiples of its value, the best kept."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from rlrs.messages import plural
from rlrs.records import Proposal, SearchResult, Trial
from rlrs.search.method import History, batches
from rlrs.search.space import Point, Space


@dataclass(frozen=True)
class LocalSearch:
    """Coordinate search as in arXiv:2507.03526, section on tuning.

    In each sweep, parameters come in random order. Each is tried at its current value times every multiplier, side by
    side; the best replaces the current point if it beats the best score so far. The first batch also has the starting
    point. It stops after a sweep without a change, after `sweeps`, or when `budget` is spent.

    A point that was tried before is not tried again and costs nothing. Values are rounded to six significant digits, so
    that going up and down again is the same point.

    Args:
        space: what is searched, and where it starts.
        multipliers: of a parameter's current value.
        sweeps: most passes over all parameters.
        budget: most points that are tried.
        seed: of the order of parameters.
    """

    space: Space
    multipliers: Sequence[float]
    sweeps: int
    budget: int
    seed: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The first moves of the course that are not in the history yet; see `Method.ask`."""
        return self._follow(history)

    def result(self, history: History, reason: str) -> SearchResult:
        """The best point so far."""
        followed = self._follow(history, reason)
        assert isinstance(followed, SearchResult)
        return followed

    def _follow(self, history: History, early: str | None = None) -> list[Proposal] | SearchResult:
        """Take the course again with the recorded results, up to where they end."""
        recorded, order = batches(history), random.Random(self.seed)
        current, best, names = self.space.start(), math.inf, list(self.space.names)
        scores: dict[tuple[float, ...], float] = {}

        def stop(reason: str, sweep: int) -> SearchResult:
            score = best if math.isfinite(best) else None
            return SearchResult(best=current, score=score, reason=reason, rounds=sweep)

        for sweep in range(1, self.sweeps + 1):
            changed = False
            order.shuffle(names)
            for name in names:
                moves = [] if scores else [Proposal(params=current, move="start")]
                moves += self._moves(current, name)
                tried: list[Proposal | Trial] = [move for move in moves if _key(move) in scores]
                untried = [move for move in moves if _key(move) not in scores]
                while untried and len(scores) < self.budget:
                    if not recorded:
                        return untried[: self.budget - len(scores)] if early is None else stop(early, sweep)
                    batch = recorded.pop(0)
                    scores |= {_key(trial): trial.score for trial in batch}
                    # What was recorded stands in the place of what would be proposed now.
                    tried, untried = [*tried, *batch], untried[len(batch) :]
                winner = min(tried, key=lambda move: scores[_key(move)], default=None)
                if winner is not None and scores[_key(winner)] < best:
                    best = scores[_key(winner)]
                    changed = changed or winner.params != current
                    current = winner.params
                if len(scores) >= self.budget:
                    return stop(early or f"the budget of {plural(self.budget, 'run')} is spent", sweep)
            if not changed:
                return stop(early or "a whole sweep changed nothing", sweep)
        return stop(early or f"{self.sweeps} sweeps are done", self.sweeps)

    def _moves(self, current: Point, name: str) -> list[Proposal]:
        moves = []
        for multiplier in self.multipliers:
            point = self.space.moved(current, name, multiplier)
            if point is not None:
                moves.append(Proposal(params=point, move=f"{name} {current[name]:.4g} -> {point[name]:.4g}"))
        return moves


def _key(move: Proposal) -> tuple[float, ...]:
    return tuple(move.params.values())
