"""What every search method speaks: proposals out, scores in, a stop at the end."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass


@dataclass(frozen=True)
class Proposal:
    """A point to train, and the move that led to it, in words."""

    params: dict[str, float]
    move: str


@dataclass(frozen=True)
class Stop:
    """How a search ended."""

    best: dict[str, float]
    score: float
    sweeps: int
    reason: str


Method = Generator[list[Proposal], list[float], Stop]
"""A search method: yields batches of proposals, is sent their scores (nats; infinite where a run diverged)."""


def rounded(value: float) -> float:
    """To six significant digits, so that a value reached by two ways is one value."""
    return float(f"{value:.6g}")
