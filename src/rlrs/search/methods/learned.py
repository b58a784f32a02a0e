"""Ratios learned in a run or a few, from several base rates, and trained again as they are: no search at all."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.messages import plural
from rlrs.records import Learned, Learning, Proposal, SearchResult, Trial
from rlrs.search.method import History, batches, lowest, rounded
from rlrs.search.space import Parameter, Space, knot_progress

FACTORS = (1.0, 2.0, 0.5, 4.0, 0.25)
"""Of the base rate that a search starts from, in the order in which runs learn from them. Chosen here."""


@dataclass(frozen=True)
class LearnedInRuns:
    """Half of the runs learn (`rlrs.discovery`), each from its own base rate; the others train what they learned.

    A run that learns is no point of the space: its score is not compared with those of the others. With a budget of one
    run nothing is trained again, and the answer is what that run has learned, with its score.

    Args:
        space: what is searched; ratios of its free knots are learned, the base rate and everything else are not.
        budget: most runs.
        reach, spread, bound, base: as for `rlrs.discovery.Hypergradient`.
    """

    space: Space
    budget: int
    reach: float = 6.0
    spread: float | None = None
    bound: float = 32.0
    base: bool = False

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The runs that learn, then those of what they have learned; see `Method.ask`."""
        if not history:
            return self._learning()
        known = [trial.params for trial in history if trial.whole]
        if known or self.budget <= len(history):
            return self.result(history, f"{plural(len(self._learners(history)), 'run')} learned")
        proposals: list[Proposal] = []
        for trial in sorted(self._learners(history), key=lambda one: (one.score, one.number)):
            point = self._point(trial)
            if point not in known:
                known.append(point)
                move = f"learned from lr {trial.params['lr']:.4g}" if "lr" in trial.params else "learned"
                proposals.append(Proposal(params=point, move=move))
        left = self.budget - len(history)
        return proposals[:left] or self.result(history, "no run that learned was trained to its end")

    def result(self, history: History, reason: str) -> SearchResult:
        """The best of the runs with learned ratios; before there are any, what the best of those that learn learned."""
        rounds = len(batches(history))
        if any(trial.whole for trial in history):
            return lowest(history, reason, rounds)
        learners = sorted(self._learners(history), key=lambda one: (one.score, one.number))
        if not learners:
            return SearchResult(best=history[0].params, score=None, reason=reason, rounds=rounds)
        return SearchResult(best=self._point(learners[0]), score=learners[0].score, reason=reason, rounds=rounds)

    def _learning(self) -> list[Proposal]:
        """Runs that learn, from the start at several base rates."""
        start, how, proposals = self.space.start(), self._how(), []
        for factor in FACTORS if any(p.name == "lr" for p in self.space.free) else FACTORS[:1]:
            point = self.space.moved(start, "lr", factor) if factor != 1 else start
            if point is not None:
                move = "learns" if factor == 1 else f"learns, lr {start['lr']:.4g} -> {point['lr']:.4g}"
                proposals.append(Proposal(params=point, move=move, learn=how))
        return proposals[: max(1, self.budget - self.budget // 2)]

    def _how(self) -> Learning:
        knots = {name: progress for name, progress in learned_knots(self.space).items() if progress}
        return Learning(reach=self.reach, spread=self.spread, bound=self.bound, base=self.base, knots=knots)

    def _learners(self, history: History) -> list[Trial]:
        return [trial for trial in history if trial.result is not None and trial.result.learned is not None]

    def _point(self, trial: Trial) -> dict[str, float]:
        """What a run has learned, as a point of the space."""
        assert trial.result is not None
        assert trial.result.learned is not None
        found = trial.result.learned
        return self.space.point([p.coordinate(self._value(p, trial, found)) for p in self.space.free])

    @staticmethod
    def _value(parameter: Parameter, trial: Trial, found: Learned) -> float:
        component, _, part = parameter.name.rpartition(".")
        progress = knot_progress(part)
        if component in found.ratios and progress is not None:
            value = dict(found.ratios[component])[progress]
        else:
            value = {"lr": found.lr, "final_fraction": found.final_fraction}.get(
                parameter.name, trial.params[parameter.name]
            )
        return min(max(rounded(value), parameter.low), parameter.high)


def learned_knots(space: Space) -> dict[str, tuple[float, ...]]:
    """Component -> progress of the knots that its learned ratio is fitted by; a component without a free knot has none.

    A ratio whose later knots are all tied to its start is held: `(0,)`.
    """
    found: dict[str, list[float]] = {}
    held: dict[str, bool] = {}
    free: set[str] = set()
    for parameter in space:
        component, _, part = parameter.name.rpartition(".")
        progress = knot_progress(part) if component else None
        if progress is None:
            continue
        found.setdefault(component, []).append(progress)
        if parameter.free:
            free.add(component)
        if progress:
            tied = parameter.tie is not None and parameter.tie == (1.0, f"{component}.start")
            held[component] = held.get(component, True) and tied
    return {c: ((0.0,) if held.get(c) else tuple(sorted(at))) for c, at in found.items() if c in free}
