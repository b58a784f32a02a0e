"""What every search method is: a pure function from the trials so far to the next proposals, or to a result.

A method is asked with the history of its search, which is a record: batches are written down before they are trained,
and read from there ever after. So a search goes on after a kill, with another driver or on another processor, with the
points that were proposed and not with those that would be proposed now.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

from rlrs.records import Proposal, SearchResult, Trial

History = Sequence[Trial]
"""Trials that have ended, in order; whole batches only."""


class Method(Protocol):
    """A search method: frozen, made from a space, a budget and a seed."""

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The next batch, to be trained side by side; or what the search ends with.

        What it says depends on the method's own settings and on the history, on nothing else.
        """
        ...

    def result(self, history: History, reason: str) -> SearchResult:
        """What a search has found that ends now.

        Args:
            history: at least one batch.
            reason: why it ends, in words.
        """
        ...


def batches(history: History) -> list[list[Trial]]:
    """The trials of each batch."""
    return [list(batch) for _, batch in groupby(history, key=lambda trial: trial.batch)]


def lowest(history: History, reason: str, rounds: int) -> SearchResult:
    """The whole trial with the lowest score as the result; of equal ones the first; the first if none finished."""
    whole = [trial for trial in history if trial.whole]
    best = min(whole, key=lambda trial: (not trial.measured, trial.score if trial.measured else 0.0, trial.number))
    return SearchResult(best=best.params, score=best.score if best.measured else None, reason=reason, rounds=rounds)


def rounded(value: float) -> float:
    """To six significant digits, so that a value reached by two ways is one value."""
    return float(f"{value:.6g}")


def first_least(values: Sequence[float], tolerance: float) -> int:
    """Index of the least value; of those that are equal but for rounding, the first."""
    least = min(values)
    return next(index for index, value in enumerate(values) if value <= least + tolerance)
