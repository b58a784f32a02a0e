"""Ends trials early that are unlikely to beat the best one, for any search method.

Trials of one search share their seed and the order of their data, so the difference between two of them is far less
noisy than either loss: a trial is compared with the best trial so far, at the same steps. How far above it a trial
may be is read from the runs that were trained to their end: over all pairs of which the first ended better, all but a
stated share were closer than that at the rung.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrs.records import Prediction, Proposal, Pruning, SearchResult, Trial
from rlrs.search.method import History, Method
from rlrs.search.space import Point

SHARES = (0.25, 0.4, 0.55, 0.7, 0.85)
"""Rungs, as shares of a run."""
LATE = 0.7
"""First rung of a trial that moved only what acts at the end: end ratios show late."""
LEAST_RUNS = 16
"""Finished runs from which margins are taken; before, every trial is trained to its end.

With 8, which are a search's first small moves, nearly half of the new bests were ended (`experiments/cheaper_trials`).
"""
CONTROL = 8
"""Every eighth trial is trained to its end whatever its rungs, so that margins are not learned from survivors alone."""


def margins(curves: Sequence[Sequence[float]], scores: Sequence[float], error: float) -> list[float]:
    """How far above the better run a run that ends better is at each rung at most, but for a share `error` of them.

    Args:
        curves: rung losses [n runs, r rungs] of runs trained to their end, nats.
        scores: their scores [n], nats.
        error: share of the pairs, over all rungs together.
    """
    loss_NR, score_N = np.asarray(curves), np.asarray(scores)
    good = np.flatnonzero(score_N <= np.median(score_N))  # those that could have been the best so far
    better = score_N[:, None] < score_N[None, good]  # [i, j]: run i ended better than run j
    gaps = loss_NR[:, None, :] - loss_NR[None, good, :]
    share = 1 - error / loss_NR.shape[1]
    return [max(0.0, float(np.quantile(gaps[:, :, r][better], share))) for r in range(loss_NR.shape[1])]


def late_only(point: Point, best: Point) -> bool:
    """Whether two points differ only in what acts at the end of a run."""
    moved = [name for name in point if point[name] != best.get(name)]
    return all(name == "final_fraction" or name.endswith(".end") for name in moved)


@dataclass(frozen=True)
class Pruned:
    """A method with limits at rungs on the whole runs that it proposes.

    What a pruned trial would have scored is predicted from its last rung, by least squares over the runs that were
    trained to their end before it; the method is told that, with the standard deviation of the prediction.

    Args:
        method: proposes whole runs.
        steps: of a whole run.
        window: steps over which losses are averaged at a rung.
        budget: steps that all trials may take together, in whole runs.
        error: chance that a trial is pruned which would have ended better than the best before it, from 0 to 1.
    """

    method: Method
    steps: int
    window: int
    budget: int
    error: float

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """What the method asks for, with limits; see `Method.ask`."""
        judge = self._judge(history)
        spent = sum(trial.result.steps for trial in history if trial.result is not None)
        if spent >= self.budget * self.steps and judge.best is not None:
            reason = f"the budget of {self.budget} runs' steps is spent"
            return self.method.result(judge.told, reason + judge.words())
        asked = self.method.ask(judge.told)
        if isinstance(asked, SearchResult):
            return asked.model_copy(update={"reason": asked.reason + judge.words()})
        return [
            judge.limited(proposal, control=(len(history) + n) % CONTROL == 0) if proposal.whole else proposal
            for n, proposal in enumerate(asked, 1)
        ]

    def result(self, history: History, reason: str) -> SearchResult:
        """The method's own answer."""
        judge = self._judge(history)
        return self.method.result(judge.told, reason + judge.words())

    def _judge(self, history: History) -> _Judge:
        rungs = tuple(sorted({max(1, round(share * self.steps)) for share in SHARES}))
        judge = _Judge(rungs, self.window, self.error)
        for trial in history:
            judge.learn(trial)
        return judge


class _Judge:
    """What pruning knows: the best trial so far, and all that were trained to their end."""

    def __init__(self, rungs: tuple[int, ...], window: int, error: float) -> None:
        self.rungs, self.window, self.error = rungs, window, error
        self.curves: list[tuple[float, ...]] = []
        self.scores: list[float] = []
        self.told: list[Trial] = []
        """The history with predictions."""
        self.best: Trial | None = None
        self.curve: tuple[float, ...] = ()
        self.whole = self.pruned = 0

    def limited(self, proposal: Proposal, *, control: bool) -> Proposal:
        """The proposal with its rungs; a control has no limits, nor has one before margins are known."""
        limits: Mapping[int, float] = {}
        if not control and self.best is not None and len(self.scores) >= LEAST_RUNS:
            first = LATE if late_only(proposal.params, self.best.params) else 0.0
            limits = {
                step: loss + margin
                for step, loss, margin in zip(
                    self.rungs, self.curve, margins(self.curves, self.scores, self.error), strict=True
                )
                if step >= first * self.rungs[-1] / SHARES[-1]
            }
        rungs = tuple((step, limits.get(step)) for step in self.rungs)
        return proposal.model_copy(update={"prune": Pruning(rungs=rungs, window=self.window)})

    def learn(self, trial: Trial) -> None:
        """Note a trial that has ended."""
        result = trial.result
        assert result is not None, "a history holds trials that have ended"
        if trial.whole:
            self.whole += 1
            if result.status == "pruned":
                self.pruned += 1
                trial = self._predicted(trial, tuple(loss for _, loss in result.rungs))
            elif trial.measured and len(result.rungs) == len(self.rungs):
                self.curves.append(tuple(loss for _, loss in result.rungs))
                self.scores.append(trial.score)
                if self.best is None or trial.score < self.best.score:
                    self.best, self.curve = trial, self.curves[-1]
        self.told.append(trial)

    def _predicted(self, trial: Trial, rungs: tuple[float, ...]) -> Trial:
        if self.best is None or not rungs:
            return trial
        last = len(rungs) - 1
        gap_N = np.array([curve[last] - self.curve[last] for curve in self.curves])
        end_N = np.array(self.scores) - self.best.score
        design = np.stack([np.ones_like(gap_N), gap_N], 1)
        # A touch of ridge: the slope is 1 where all gaps are alike.
        weights = np.linalg.solve(design.T @ design + 1e-6 * np.eye(2), design.T @ end_N + 1e-6 * np.array([0.0, 1.0]))
        rest = end_N - design @ weights
        gap = rungs[last] - self.curve[last]
        score = self.best.score + max(0.0, float(weights @ np.array([1.0, gap])))
        prediction = Prediction(score=score, error=float(np.sqrt(np.mean(rest**2))))
        return trial.model_copy(update={"prediction": prediction})

    def words(self) -> str:
        """How many trials were ended early, for a reason to stop."""
        return f"; {self.pruned} of {self.whole} trials ended at a rung"
