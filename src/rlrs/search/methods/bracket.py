"""One parameter on a geometric grid: downhill from the start until both neighbours of the best are worse."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlrs.messages import plural
from rlrs.records import Proposal, SearchResult
from rlrs.search.method import History, rounded
from rlrs.search.space import bounds


@dataclass(frozen=True)
class Bracket:
    """Tune one parameter that a smaller model gave a first guess of; downward first, as larger models want it.

    It tries the start and the next lower grid point, then goes on in the direction that is better, one point at a
    time, and stops when the best point has a worse one on both sides, or the budget is spent.

    Args:
        name: of the parameter; `lr` for a base rate.
        start: first guess, a point of the grid.
        factor: grid ratio, above 1.
        budget: most points that are tried, at least 1.
    """

    name: str
    start: float
    factor: float
    budget: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The next points of the grid; see `Method.ask`."""
        scores = self._scores(history)
        if not scores:
            return [self._proposal(e) for e in (0, -1) if self._allowed(e)][: self.budget]
        open_sides = self._open_sides(scores)
        if not open_sides:
            return self.result(history, "the rates tried on both sides are worse")
        if len(scores) >= self.budget:
            edge = f"the budget of {plural(self.budget, 'run')} is spent with the best at the edge of what was tried"
            return self.result(history, edge)
        return [self._proposal(open_sides[0])]

    def result(self, history: History, reason: str) -> SearchResult:
        """The best point of the grid so far."""
        scores = self._scores(history)
        best = self._best(scores)
        score = scores[best] if math.isfinite(scores[best]) else None
        return SearchResult(best=self._proposal(best).params, score=score, reason=reason, rounds=1)

    def _scores(self, history: History) -> dict[int, float]:
        """By the grid point's exponent, which is read from the recorded value."""
        return {
            round(math.log(trial.params[self.name] / self.start) / math.log(self.factor)): trial.score
            for trial in history
        }

    @staticmethod
    def _best(scores: dict[int, float]) -> int:
        return min(scores, key=lambda e: (scores[e], e))

    def _open_sides(self, scores: dict[int, float]) -> list[int]:
        best = self._best(scores)
        # When all diverged, only lower can help.
        neighbours = (min(scores) - 1,) if math.isinf(scores[best]) else (best - 1, best + 1)
        return [e for e in neighbours if e not in scores and self._allowed(e)]

    def _proposal(self, exponent: int) -> Proposal:
        value = rounded(self.start * self.factor**exponent)
        move = "start" if exponent == 0 else f"{self.name} {self.start:.4g} -> {value:.4g}"
        return Proposal(params={self.name: value}, move=move)

    def _allowed(self, exponent: int) -> bool:
        low, high = bounds(self.name)
        return low <= self.start * self.factor**exponent <= high
