"""What every search method speaks: proposals out, results in, a stop at the end.

A method is a generator: it yields a batch of proposals, is sent what came of them in the same order, and returns a
`Stop`. What it proposes depends on its arguments and on what it was sent, on nothing else: not on the clock, on how
many runs are trained side by side, or on which of them ended first. So a study that was killed is replayed from the
finished runs, and goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace

from rlrs.models import at_width
from rlrs.records import Pruning, RunResult
from rlrs.training import RunSpec


@dataclass(frozen=True)
class Proposal:
    """A point to train.

    Args:
        params: parameter -> value.
        move: what led to it, in words.
        steps: of a shorter run with its own full schedule; None for as many as the scale has.
        width: model width of a narrower run, with the scale's head size; None for the scale's own.
        seed: of weights and data order; None for the search's.
        prune: when to end the run early, decided now; None to train it to its end.
    """

    params: dict[str, float]
    move: str
    steps: int | None = None
    width: int | None = None
    seed: int | None = None
    prune: Pruning | None = None

    @property
    def whole(self) -> bool:
        """Whether its score is comparable with those of the search: full length, full width, the search's seed."""
        return self.steps is None and self.width is None and self.seed is None

    def run(self, spec: RunSpec) -> RunSpec:
        """The run of this proposal, from the whole run that its params stand for.

        The score's window shrinks with the steps, so that a shorter run is scored on the same share of its schedule.
        """
        if self.steps is not None and self.steps != spec.steps:
            window = max(1, round(spec.training.score_steps * self.steps / spec.steps))
            training = spec.training.model_copy(update={"score_steps": window})
            spec = replace(spec, steps=self.steps, training=training)
        if self.width is not None:
            spec = replace(spec, model=at_width(spec.model, self.width))
        return spec if self.seed is None else replace(spec, seed=self.seed)


@dataclass(frozen=True)
class Feedback:
    """What a method is told of a proposal's run.

    Args:
        score: nats per token; infinite for a run that is not finished, unless it was predicted from its rungs.
        status: "finished", "diverged", "pruned", or another word for a run that could not be trained.
        steps: optimizer steps that it took.
        rungs: windowed training losses at the rungs of its pruning that it came to, nats per token.
        error: standard deviation of a predicted score, nats; 0 for a score that was measured.
    """

    score: float
    status: str = "finished"
    steps: int = 0
    rungs: tuple[float, ...] = ()
    error: float = 0.0

    @classmethod
    def of(cls, result: RunResult) -> Feedback:
        """What a method is told of a result."""
        score = math.inf if result.score is None else result.score
        return cls(score, result.status, result.steps, tuple(loss for _, loss in result.rungs))


@dataclass(frozen=True)
class Stop:
    """How a search ended.

    Args:
        best: the point found; one that was trained whole.
        score: of that run, nats per token.
        sweeps: rounds that the method made.
        reason: why it stopped, in words.
    """

    best: dict[str, float]
    score: float
    sweeps: int
    reason: str


class EndedError(Exception):
    """Thrown into a method whose search ends before the method does; what it says is why.

    A method that knows better than the lowest score of its whole runs catches it and returns its `Stop`.
    """


Method = Generator[list[Proposal], list[Feedback], Stop]
"""A search method: yields batches of proposals, is sent their feedback in the same order."""


def ended(method: Method, reason: str) -> Stop | None:
    """What a method answers that is ended early; None where it has no answer of its own."""
    try:
        method.throw(EndedError(reason))
    except StopIteration as end:
        stop: Stop = end.value
        return stop
    except EndedError:
        return None
    raise AssertionError("a method that is ended proposes nothing more")


def rounded(value: float) -> float:
    """To six significant digits, so that a value reached by two ways is one value."""
    return float(f"{value:.6g}")
