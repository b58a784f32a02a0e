"""The answer of a search tried nearer to the edge of stability, on fresh seeds; it gives way where it is too near."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.records import Proposal, SearchResult, Stability, Trial
from rlrs.search.fidelity import FIRST_NEW_SEED
from rlrs.search.method import History, Method, rounded

_FIRST = 500
"""Of the seeds, after those of re-tests."""
_MARK = "stability"
"""In a proposal's memo: which of the runs here it is, so that the method does not take it for one of its own."""


@dataclass(frozen=True)
class Margined:
    """A method whose answer has to be stable at a factor times its base rate.

    All rates go with the base rate, so that a larger one is the way to the edge. The answer, and after it what it gives
    way to, is trained at `factor` times its base rate on fresh seeds. It is stable there if every run ends, and no more
    than `rise` above the answer's own score: runs on the near side of the edge lose little at a rate off by the factor.

    Args:
        method: any whose space has `lr`.
        factor: above 1.
        seeds: fresh ones, 1 or more.
        retreats: most times that the answer gives way to itself at a base rate smaller by the factor.
        rise: nats per token.
        seed: the search's.
    """

    method: Method
    factor: float
    seeds: int
    retreats: int
    rise: float
    seed: int

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The method's next batch, or runs nearer to the edge; see `Method.ask`."""
        first, own = _parts(history)
        asked = self.method.ask(first)
        if not isinstance(asked, SearchResult) or asked.score is None or "lr" not in asked.best:
            return asked
        return self._tried(asked, own)

    def result(self, history: History, reason: str) -> SearchResult:
        """The method's own answer, or what it gave way to where that was tried."""
        first, own = _parts(history)
        asked = self.method.ask(first)
        if isinstance(asked, SearchResult) and asked.score is not None and "lr" in asked.best:
            found = self._tried(asked, own)
            if isinstance(found, SearchResult):
                return found
            return asked.model_copy(update={"reason": f"{asked.reason}; stability not tried: {reason}"})
        return self.method.result(first, reason)

    def _tried(self, asked: SearchResult, own: History) -> list[Proposal] | SearchResult:
        """What is to be run next, or the answer with what is known of its margin."""
        assert asked.score is not None
        best, score = asked.best, asked.score
        for retreat in range(self.retreats + 1):
            point = {**best, "lr": rounded(best["lr"] / self.factor)} if retreat else best
            wanted = self._nearer(point, retreat)
            if retreat:
                wanted.insert(0, Proposal(params=point, move=f"{1 / self.factor:.3g} of its rate", memo={_MARK: 0.0}))
            done = [next((t for t in own if (t.params, t.seed) == (p.params, p.seed)), None) for p in wanted]
            if new := [proposal for proposal, trial in zip(wanted, done, strict=True) if trial is None]:
                return new
            trials = [trial for trial in done if trial is not None]
            if retreat:
                whole = trials.pop(0)
                if not whole.measured:
                    break
                best, score = point, whole.score
            if all(trial.measured and trial.score <= score + self.rise for trial in trials):
                return self._answer(asked, best, score, retreat, stable=True)
        return self._answer(asked, best, score, self.retreats, stable=False)

    def _nearer(self, point: dict[str, float], retreat: int) -> list[Proposal]:
        """A point at the factor times its base rate, on every fresh seed."""
        nearer = {**point, "lr": rounded(point["lr"] * self.factor)}
        first = FIRST_NEW_SEED + 1000 * self.seed + _FIRST
        return [
            Proposal(
                params=nearer,
                move=f"stability, {self.factor:g} times the rate, seed {seed}",
                seed=seed,
                memo={_MARK: float(retreat + 1)},
            )
            for seed in range(first, first + self.seeds)
        ]

    def _answer(
        self, asked: SearchResult, best: dict[str, float], score: float, retreats: int, *, stable: bool
    ) -> SearchResult:
        found = Stability(factor=self.factor, seeds=self.seeds, stable=stable, retreats=retreats)
        words = "stable" if stable else "not stable"
        reason = f"{asked.reason}; {words} at {self.factor:g} times its rate on {self.seeds} seeds"
        if retreats:
            reason += f", after {retreats} retreats to a smaller one"
        return asked.model_copy(update={"best": best, "score": score, "reason": reason, "stability": found})


def _parts(history: History) -> tuple[list[Trial], list[Trial]]:
    """Trials of the method, and those of its answer's stability."""
    return [t for t in history if _MARK not in t.memo], [t for t in history if _MARK in t.memo]
