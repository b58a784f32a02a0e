"""Further cycles of a schedule: warm restarts, and the re-warming of continued pre-training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """Steps at which a schedule begins anew, and what of it does.

    With `warmup_steps=0` every cycle begins at its peak, as in warm restarts (Loshchilov and Hutter, 2017,
    arXiv:1608.03983); with a warm-up it is re-warmed from 0, as in continued pre-training (Ibrahim et al., 2024,
    arXiv:2403.08763). Every cycle has the shape and the final fraction of the whole schedule.

    Args:
        at: steps at which a further cycle begins, 0-based and increasing.
        warmup_steps: of every further cycle; as many as the schedule's own if None.
        peak: base peak rate of a cycle over that of the cycle before.
        ratios: in every cycle a ratio goes from its start to its end `anew`, or it goes `on`: once through over all
            cycles, as progress counts their steps without warm-ups.

    Raises:
        ValueError: a value out of its range; the message names it.

    Examples:
        >>> from rlrs.schedules import BaseSchedule
        >>> base = BaseSchedule(total_steps=8, final_fraction=0.0, restarts=Restarts(at=(4,), peak=0.5))
        >>> [round(base(t), 3) for t in range(9)]
        [1.0, 0.854, 0.5, 0.146, 0.5, 0.427, 0.25, 0.073, 0.0]
    """

    at: tuple[int, ...]
    warmup_steps: int | None = None
    peak: float = 1.0
    ratios: Literal["anew", "on"] = "anew"

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at))
        if not self.at or not all(isinstance(step, int) and not isinstance(step, bool) for step in self.at):
            raise ValueError(f"restarts: at should be whole numbers of steps, one or more, not {self.at!r}")
        if any(later <= sooner for sooner, later in itertools.pairwise((0, *self.at))):
            raise ValueError(f"restarts: at should be above 0 and increasing, not {self.at!r}")
        warmup = self.warmup_steps
        if warmup is not None and (isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0):
            raise ValueError(f"restarts: warmup_steps should be a whole number from 0, not {warmup!r}")
        if isinstance(self.peak, bool) or not isinstance(self.peak, int | float) or not 0 < self.peak < float("inf"):
            raise ValueError(f"restarts: peak should be above 0, not {self.peak!r}")
        if self.ratios not in ("anew", "on"):
            raise ValueError(f"restarts: ratios should be 'anew' or 'on', not {self.ratios!r}")

    def lengths(self, total_steps: int, warmup_steps: int) -> list[tuple[int, int, int]]:
        """First step, steps and warm-up steps of every cycle, the first included.

        Raises:
            ValueError: a cycle that has no steps after its warm-up.
        """
        found = []
        for first, after in itertools.pairwise((0, *self.at, total_steps)):
            warmup = warmup_steps if first == 0 or self.warmup_steps is None else self.warmup_steps
            if after - first <= warmup:
                raise ValueError(
                    f"restarts: the cycle from step {first} to {after} should have more steps than its warm-up, "
                    f"{warmup}"
                )
            found.append((first, after - first, warmup))
        return found

    def knots(self, knots: Knots, decays: Sequence[int]) -> list[Knots]:
        """A ratio's knots in every cycle.

        >>> Restarts(at=(4,), ratios="on").knots([(0, 4.0), (1, 2.0)], [4, 4])
        [[(0.0, 4.0), (1.0, 3.0)], [(0.0, 3.0), (1.0, 2.0)]]

        Args:
            knots: of the whole run, (progress, ratio).
            decays: steps of every cycle after its warm-up.
        """
        if self.ratios == "anew":
            return [knots for _ in decays]
        ends = [sum(decays[:count]) / sum(decays) for count in range(len(decays) + 1)]
        return [_between(knots, since, until) for since, until in itertools.pairwise(ends)]


def _between(knots: Knots, since: float, until: float) -> Knots:
    """The part of knots between two points of progress, as progress from 0 to 1; ratios are linear between knots."""

    def ratio(at: float) -> float:
        for (low, one), (high, other) in itertools.pairwise(knots):
            if at <= high:
                return one + (other - one) * (at - low) / (high - low)
        return knots[-1][1]

    inner = [((at - since) / (until - since), value) for at, value in knots if since < at < until]
    return [(0.0, ratio(since)), *inner, (1.0, ratio(until))]
