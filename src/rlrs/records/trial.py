"""One trial of a search, from its proposal to its result, and what a search ends with."""

from __future__ import annotations

import math

from pydantic import Field

from rlrs.records.frozen import Record
from rlrs.records.run import Learning, Pruning, RunResult


class Proposal(Record):
    """What a search method asks to be trained: a point, and at which fidelity."""

    params: dict[str, float]
    """Parameter -> value, fixed and tied ones included: `lr`, `final_fraction`, `COMPONENT.start` and so on."""
    move: str
    """What led to it, in words."""
    steps: int | None = Field(default=None, ge=1)
    """Of a shorter run with its own full schedule; None for as many as the scale has."""
    width: int | None = Field(default=None, ge=1)
    """Model width of a narrower run, with the scale's head size; None for the scale's own."""
    seed: int | None = Field(default=None, ge=0)
    """Of weights and data order; None for the search's."""
    prune: Pruning | None = None
    """When to end the run early; None to train it to its end."""
    learn: Learning | None = None
    """How the run learns its ratios, which begin at those of `params`; None for a run whose ratios are as they are."""
    memo: dict[str, float] = Field(default_factory=dict)
    """What the method notes down with a batch, and reads when it is asked for the next one."""

    @property
    def whole(self) -> bool:
        """Whether its score is comparable with those of the search: full length and width, its seed, given ratios."""
        return self.steps is None and self.width is None and self.seed is None and self.learn is None


class Prediction(Record):
    """What a run that was ended early would have scored."""

    score: float
    """Nats per token."""
    error: float = Field(ge=0)
    """Standard deviation, nats."""


class Trial(Proposal):
    """A proposal in the order of its search, with its run and, once it has ended, its result."""

    number: int = Field(ge=0)
    """In the search, from 0; batches one after another."""
    batch: int = Field(ge=0)
    """Proposals of one batch were made together, from the results of the batches before."""
    run: str
    """Id of the run: the hash of everything that decides its numbers."""
    result: RunResult | None = None
    """How the run ended; None before."""
    prediction: Prediction | None = None
    """Where the run was pruned."""

    @property
    def measured(self) -> bool:
        """Whether the run was trained to its end."""
        return self.result is not None and self.result.status == "finished"

    @property
    def score(self) -> float:
        """Nats per token: measured, or predicted; infinite where there is neither."""
        if self.result is not None and self.result.score is not None:
            return self.result.score
        return self.prediction.score if self.prediction is not None else math.inf

    @property
    def error(self) -> float:
        """Standard deviation of a predicted score, nats; 0 for one that was measured."""
        return self.prediction.error if self.prediction is not None and not self.measured else 0.0


class SearchResult(Record):
    """What a search ends with."""

    best: dict[str, float]
    """The point found, with *all* its parameters; one that was trained whole, or learned in the one run there was."""
    score: float | None
    """Of that point's whole run, nats per token; None if no whole run finished."""
    reason: str
    """Why the search ended, in words."""
    rounds: int = Field(ge=0)
    """Batches, or sweeps over all parameters, as the method counts."""
    trials: tuple[Trial, ...] = ()
    """All of them, in order."""
