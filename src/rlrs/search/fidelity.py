"""Searches at low fidelity, verified at the full one; and the best points tested again on seeds never used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlrs.records import Proposal, SearchResult, Trial
from rlrs.search.method import History, Method, lowest
from rlrs.search.space import Space

FIRST_NEW_SEED = 1_000_000
"""Far from a search's own seed, and from those of a comparison."""


@dataclass(frozen=True)
class LowFidelity:
    """A method on shorter or narrower runs, its best points then trained whole.

    The start is trained whole first, so that a search that is ended early has a whole run to answer with.

    Args:
        method: proposes whole runs.
        space: what it searches.
        steps: of a cheap run, with its own full schedule; None for all.
        width: model width of a cheap run; None for the model's own.
        verify: points that are trained whole, the start among them; two at least.
    """

    method: Method
    space: Space
    steps: int | None
    width: int | None
    verify: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The method's next batch as cheap runs, or the points to verify; see `Method.ask`."""
        cheap = [trial.model_copy(update={"steps": None, "width": None}) for trial in history if not trial.whole]
        asked = self.method.ask(cheap)
        if not isinstance(asked, SearchResult):
            proposals = [p.model_copy(update={"steps": self.steps, "width": self.width}) for p in asked]
            return proposals if history else [Proposal(params=asked[0].params, move="start, whole"), *proposals]
        whole = [trial for trial in history if trial.whole]
        # What was verified is read from the record: the ranking is not made a second time.
        if history[-1].whole and len(whole) > 1 and history[-1].batch != 0:
            return self.result(history, asked.reason)
        trained = [trial.params for trial in whole]
        chosen = [params for params in _ranked(cheap) if params != trained[0]][: max(1, self.verify - 1)]
        new = [params for params in chosen if params not in trained]
        if not new:
            return self.result(history, asked.reason)
        return [Proposal(params=params, move=f"best {n} of the cheap runs, whole") for n, params in enumerate(new, 1)]

    def result(self, history: History, reason: str) -> SearchResult:
        """The best of the whole runs."""
        whole = [trial for trial in history if trial.whole]
        return lowest(whole, f"{reason}; {len(whole)} trained whole", 1 + history[-1].batch)


@dataclass(frozen=True)
class Retested:
    """A method, and then its best points on new seeds, so that a point that was lucky on one seed does not win.

    Args:
        method: any; its whole runs are what is tested again.
        points: how many are tested again: what the method ends with, and those with the lowest scores.
        seeds: new seeds for each, 1 or more.
        seed: the search's.
    """

    method: Method
    points: int
    seeds: int
    seed: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The method's next batch, or its best points on the new seeds; see `Method.ask`."""
        first, again = _split(history)
        asked = self.method.ask(first)
        if not isinstance(asked, SearchResult):
            return asked
        points = self._points(history, first, asked)
        if len(points) < 2:
            return asked
        done = {(_key(trial.params), trial.seed) for trial in again}
        new = [
            Proposal(params=point, move=f"best {n} again, seed {seed}", seed=seed)
            for n, point in enumerate(points, 1)
            for seed in self._new_seeds()
            if (_key(point), seed) not in done
        ]
        return new or self._winner(points, first, again, asked)

    def result(self, history: History, reason: str) -> SearchResult:
        """The method's own answer, or the best of its points on all seeds where these have been tested."""
        first, again = _split(history)
        asked = self.method.ask(first)
        if not isinstance(asked, SearchResult):
            return self.method.result(first, reason)
        if again and history[-1].seed is not None:
            return self._winner(self._points(history, first, asked), first, again, asked)
        return asked.model_copy(update={"reason": f"{asked.reason}; not tested again: {reason}"})

    def _new_seeds(self) -> list[int]:
        return [FIRST_NEW_SEED + 1000 * self.seed + k for k in range(self.seeds)]

    def _points(self, history: History, first: History, asked: SearchResult) -> list[dict[str, float]]:
        """What is tested again: as recorded, where that has begun; else the method's answer and the lowest scores."""
        if history[-1].seed is not None:
            last = [trial.params for trial in history if trial.batch == history[-1].batch]
            recorded = list({_key(params): params for params in last}.values())
            # Of points that were tested before the search was extended, a batch has only what was missing.
            if len(recorded) >= min(self.points, 2):
                return recorded
        if asked.score is None:
            return []
        return [asked.best, *(params for params in _ranked(first) if params != asked.best)][: self.points]

    def _winner(
        self, points: Sequence[dict[str, float]], first: History, again: History, asked: SearchResult
    ) -> SearchResult:
        """The point with the lowest mean over the search's seed and the new ones."""
        means, own = [], []
        for point in points:
            mine = next(trial.score for trial in first if trial.whole and trial.params == point and trial.measured)
            scores = [trial.score for trial in again if trial.params == point and trial.seed in self._new_seeds()]
            own.append(mine)
            means.append(math.fsum([mine, *scores]) / (1 + len(scores)))
        winner = min(range(len(points)), key=lambda n: (means[n], n))
        if math.isinf(means[winner]):
            return asked
        words = f"; best of {len(points)} points on {self.seeds + 1} seeds"
        if winner and math.isfinite(means[0]):
            words += f", {means[0] - means[winner]:.4f} nats below the search's own best"
        reason = asked.reason + words
        return asked.model_copy(update={"best": points[winner], "score": own[winner], "reason": reason})


def _split(history: History) -> tuple[list[Trial], list[Trial]]:
    """Trials on the search's seed, and those on new ones."""
    return [t for t in history if t.seed is None], [t for t in history if t.seed is not None]


def _ranked(trials: Sequence[Trial]) -> list[dict[str, float]]:
    """Points of finished whole runs, each once, the lowest score first; of equal ones the earlier."""
    finished = sorted((t for t in trials if t.whole and t.measured), key=lambda t: (t.score, t.number))
    return list({_key(trial.params): trial.params for trial in finished}.values())


def _key(params: dict[str, float]) -> tuple[float, ...]:
    return tuple(params.values())
