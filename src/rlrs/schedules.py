r"""Base schedules, and the rule that gives a component's learning rate from a base schedule and its ratios.

With base peak rate `eta`, final fraction `alpha`, ratios `s` (start) and `e` (end), `W` warm-up steps, `T` total
steps and the 0-based step `t` (Ludziejewski et al., 2025, arXiv:2507.03526):

    start = eta * s,   end = eta * alpha * e
    t < W         lr(t) = start * (t + 1) / W
    W <= t < T    lr(t) = end + (start - end) * c(t),    cosine: c(t) = 0.5 * (1 + cos(pi * (t - W) / (T - W)))
    t >= T        lr(t) = end

Both ends are scaled and the curve runs between them, so ratios of 1 are exactly the base schedule. Everything here
is in units of `eta`: a pure function from step to factor. `equation` is that rule and the only place where it is
computed: torch, optax and the exports are fed by it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from rlrs.messages import shown
from rlrs.restarts import Restarts

LARGEST_RATE = 1e12
"""Of a ratio and of a base rate: beyond any use, and a rate made from both is finite in float32. Chosen here."""
MOST_STEPS = 10**12
"""Of a schedule: beyond any run, and exact as a floating-point number. Chosen here."""

SHAPES = ("cosine", "linear", "constant", "wsd")

Knots = Sequence[tuple[float, float]]
"""Pairs (progress, ratio): progress 0 is the end of the warm-up, 1 the last step; increasing, from 0 to 1."""

Points = Sequence[tuple[float, float, float]]
"""Knots in steps: (steps after the warm-up, `c` there, the rate there in units of `eta`)."""

Cycles = Sequence[Points]
"""The same of every cycle of a schedule with restarts, in units of the first one's `eta`."""


# `equation` and the three curves stand alone: `rlrs export` writes their source into files for other stacks.


def equation(step: int, share: float, curves: Sequence[Points], warmup: int, total: int) -> list[float]:
    """Components' rates at a step; `share` is (t + 1) / W in the warm-up, and c(t) after it."""
    if step < warmup:
        return [points[0][2] * share for points in curves]
    if step >= total:
        return [points[-1][2] for points in curves]
    rates, elapsed = [], step - warmup
    for points in curves:
        k = 1
        while points[k][0] <= elapsed:
            k += 1
        (since, high, start), (until, low, end) = points[k - 1], points[k]
        c = (share - low) / (high - low) if high > low else (until - elapsed) / (until - since)
        rates.append(end + (start - end) * c)
    return rates


def cosine(elapsed: float, length: float) -> float:
    """From 1 at 0 to 0 at `length`, half a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * elapsed / length))


def linear(elapsed: float, length: float) -> float:
    """From 1 at 0 to 0 at `length`, a line."""
    return 1.0 - elapsed / length


def wsd(elapsed: float, length: float, decay: float) -> float:
    """1 until `decay` steps before `length`, and from there to 0, a line."""
    return min(1.0, (length - elapsed) / decay)


@dataclass(frozen=True, kw_only=True)
class BaseSchedule:
    """Warm-up followed by a decay from 1 to `final_fraction`, in units of the base peak rate.

    Args:
        total_steps: `T`, in optimizer steps, warm-up included; at least 1.
        warmup_steps: `W`, from 0 to `T`. The rate rises linearly and reaches its peak at step `W - 1`.
        final_fraction: `alpha`, the base rate at the end over its peak, from 0 to 1. If None: 1 for `constant`,
            else 0.1 (Hoffmann et al., 2022, arXiv:2203.15556).
        shape: `cosine`, `linear`, `constant` (the base stays at its peak and the ratios move linearly in
            progress), `wsd` (warm-up, stable, linear decay; Hu et al., 2024, arXiv:2404.06395), or a curve of your
            own: a function of the 0-based step that gives the base rate over its peak, its own warm-up included. Its
            value at `T` is then the final fraction, and `c(t) = (f(t) - f(T)) / (1 - f(T))`.
        decay_fraction: share of the total steps in which `wsd` decays; 0.2 is chosen here, not studied.
        restarts: further cycles, each with a warm-up and a decay of its own; then `wsd` decays in that share of each.

    Raises:
        ValueError: a value out of its range; the message names it.

    Examples:
        >>> base = BaseSchedule(total_steps=10, warmup_steps=2, final_fraction=0.1)
        >>> [round(base(t), 3) for t in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.55, 0.1]
        >>> mine = BaseSchedule(total_steps=4, shape=lambda t: 1 / (1 + t))
        >>> relative_factor(mine, [(0, 2), (1, 2)], 1), mine.final_fraction  # twice the base rate of 1/2
        (1.0, 0.2)
    """

    total_steps: int
    warmup_steps: int = 0
    final_fraction: float | None = None
    shape: str | Callable[[int], float] = "cosine"
    decay_fraction: float = 0.2
    restarts: Restarts | None = None

    def __post_init__(self) -> None:
        for name in ("total_steps", "warmup_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} should be a whole number of steps, not {value!r}")
            object.__setattr__(self, name, int(value))
        if not 1 <= self.total_steps <= MOST_STEPS:
            raise ValueError(f"total_steps should be at least 1, at most {MOST_STEPS:,}, not {shown(self.total_steps)}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps should be from 0 to total_steps={self.total_steps}, not {shown(self.warmup_steps)}"
            )
        if callable(self.shape):
            self._check_own(self.shape)
        elif self.shape not in SHAPES:
            raise ValueError(f"shape should be one of {', '.join(SHAPES)}, or a function, not {self.shape!r}")
        if self.final_fraction is None:
            object.__setattr__(self, "final_fraction", 1.0 if self.shape == "constant" else 0.1)
        elif not _is_number(self.final_fraction) or not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction should be from 0 to 1, not {self.final_fraction!r}")
        elif self.shape == "constant" and self.final_fraction != 1:
            raise ValueError(
                f"final_fraction={self.final_fraction!r}: a constant schedule ends at its peak; leave it out"
            )
        object.__setattr__(self, "final_fraction", float(self.alpha))
        if self.shape == "wsd":
            room = (self.total_steps - self.warmup_steps) / self.total_steps
            if not _is_number(self.decay_fraction) or not 0 < self.decay_fraction <= (room or 1):
                raise ValueError(
                    f"decay_fraction should be above 0 and at most {room:.6g}, the share of the steps after "
                    f"the warm-up, not {self.decay_fraction!r}"
                )
        if _is_number(self.decay_fraction):
            object.__setattr__(self, "decay_fraction", float(self.decay_fraction))
        if self.restarts is not None:
            if callable(self.shape):
                raise ValueError("restarts are for a named shape: a curve of your own has cycles of its own")
            self.restarts.lengths(self.total_steps, self.warmup_steps)

    def _check_own(self, own: Callable[[int], float]) -> None:
        if self.final_fraction is not None:
            raise ValueError(
                f"final_fraction={self.final_fraction!r}: a curve of your own ends where it ends; leave it out"
            )
        peak, end = float(own(self.warmup_steps)), float(own(self.total_steps))
        if self.warmup_steps < self.total_steps and not math.isclose(peak, 1.0, rel_tol=1e-6):
            raise ValueError(
                f"the schedule's own curve is {peak:g} at step {self.warmup_steps}, the end of the warm-up, where it "
                "should be 1: divide it by the peak rate"
            )
        if not 0 <= end <= 1:
            raise ValueError(f"the schedule's own curve should end between 0 and 1, not at {end:g}")
        after = range(self.warmup_steps, self.total_steps)
        if end == 1 and any(own(step) != 1 for step in after):
            raise ValueError(
                "the schedule's own curve ends at its peak, but is not there all the time: c(t) is undefined"
            )
        object.__setattr__(self, "final_fraction", end)

    def __call__(self, step: int) -> float:
        """The base rate over its peak at a 0-based step."""
        return Curve(self)(step)

    @property
    def alpha(self) -> float:
        """The final fraction, resolved."""
        assert self.final_fraction is not None
        return self.final_fraction

    @cached_property
    def cycles(self) -> tuple[tuple[int, BaseSchedule], ...]:
        """First step and schedule of every cycle; itself, if there is one."""
        if self.restarts is None:
            return ((0, self),)
        found: list[tuple[int, BaseSchedule]] = []
        for first, length, warmup in self.restarts.lengths(self.total_steps, self.warmup_steps):
            final = None if self.shape == "constant" else self.alpha
            own = replace(self, total_steps=length, warmup_steps=warmup, final_fraction=final, restarts=None)
            found.append((first, own))
        return tuple(found)

    @cached_property
    def decay_steps(self) -> int:
        """`T - W`, the steps after the warm-up; 1 where there are none, so that progress is defined."""
        return max(self.total_steps - self.warmup_steps, 1)

    def decay(self, elapsed: float) -> float:
        """`c`, from 1 at `elapsed` = 0 to 0 at `T - W`; `elapsed` is in steps since the end of the warm-up."""
        length, shape = self.decay_steps, self.shape
        if shape == "cosine":
            return cosine(elapsed, length)
        if shape == "wsd":
            return wsd(elapsed, length, self.decay_fraction * self.total_steps)
        if isinstance(shape, str) or self.alpha == 1:  # a base that stays at its peak leaves the ratios to progress
            return linear(elapsed, length)
        whole = math.floor(elapsed)
        c = (shape(self.warmup_steps + whole) - self.alpha) / (1.0 - self.alpha)
        if whole == elapsed:
            return c
        return c + (elapsed - whole) * (self.decay(whole + 1) - c)

    def share(self, step: int) -> float:
        """Of the peak in the warm-up, `(t + 1) / W`; then of the way that is left, `c(t)`, which is 0 from `T` on.

        Raises:
            ValueError: a negative step.
        """
        if step < 0:
            raise ValueError(f"step should be 0 or more, not {step}")
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps if isinstance(self.shape, str) else self.shape(step)
        return self.decay(step - self.warmup_steps) if step < self.total_steps else 0.0


class Curve:
    """A component's rate in units of the base peak rate, as a function of the step: `equation` for its knots.

    Two knots are the formula at the top of this module. With more, the same rule holds between neighbours: at
    knot `k` the rate is the base rate there times the ratio, and between knots it is linear in `c` (in progress,
    where `c` does not move: the stable phase of `wsd`).

    Raises:
        ValueError: knots between the ends on a base curve of the user's own that rises after its warm-up.
    """

    def __init__(self, schedule: BaseSchedule, knots: Knots = ((0.0, 1.0), (1.0, 1.0))) -> None:
        self.schedule = schedule
        self.points: Points | Cycles = (
            self._points(schedule, knots) if schedule.restarts is None else self._cycles(knots)
        )

    def _cycles(self, knots: Knots) -> Cycles:
        """The points of every cycle."""
        restarts, cycles = self.schedule.restarts, [own for _, own in self.schedule.cycles]
        assert restarts is not None
        each = restarts.knots(knots, [own.decay_steps for own in cycles])
        return tuple(
            [(at, c, rate * restarts.peak**number) for at, c, rate in self._points(own, mine)]
            for number, (own, mine) in enumerate(zip(cycles, each, strict=True))
        )

    @staticmethod
    def _points(schedule: BaseSchedule, knots: Knots) -> Points:
        elapsed = [progress * schedule.decay_steps for progress, _ in knots]
        if len(knots) > 2 and callable(schedule.shape) and schedule.alpha < 1:
            shares = [schedule.share(t) for t in range(schedule.warmup_steps, schedule.total_steps)]
            if any(later > sooner for sooner, later in itertools.pairwise(shares)):
                raise ValueError(
                    "knots between start and end want a base curve that does not rise again after its warm-up"
                )
        # In exact arithmetic c(0) = 1 and c(T - W) = 0; the cosine of a floating pi is not relied on for that.
        decays = [1.0, *(schedule.decay(at) for at in elapsed[1:-1]), 0.0]
        return tuple(
            (at, c, (c + schedule.alpha * (1.0 - c)) * ratio)
            for at, c, (_, ratio) in zip(elapsed, decays, knots, strict=True)
        )

    def __call__(self, step: int) -> float:
        """The factor at a 0-based step; the last value from step `T` on.

        Raises:
            ValueError: a negative step.
        """
        return factors(self.schedule, [self.points], step)[0]


def factors(schedule: BaseSchedule, curves: Sequence[Points | Cycles], step: int) -> list[float]:
    """What the `points` of several curves of one base schedule give at a step; `c` is computed once for all."""
    if schedule.restarts is not None:
        number = max(sum(first <= step for first, _ in schedule.cycles) - 1, 0)
        first, schedule = schedule.cycles[number]
        curves, step = [cast(Cycles, points)[number] for points in curves], step - first
    own = cast(Sequence[Points], curves)
    return equation(step, schedule.share(step), own, schedule.warmup_steps, schedule.total_steps)


@overload
def relative_factor(schedule: BaseSchedule, knots: Knots, step: int) -> float: ...
@overload
def relative_factor(
    schedule: BaseSchedule, knots: Knots, step: NDArray[Any] | Sequence[int]
) -> NDArray[np.float64]: ...
def relative_factor(
    schedule: BaseSchedule, knots: Knots, step: int | NDArray[Any] | Sequence[int]
) -> float | NDArray[np.float64]:
    """A component's rate over the base peak rate, `lr_i(t) / eta`, at one step or at an array of steps.

    Args:
        schedule: the base schedule.
        knots: the component's ratios, as `Ratio.knots`; `[(0, s), (1, e)]` for a start and an end.
        step: 0-based; an array of any shape gives an array of that shape.

    Raises:
        ValueError: a negative step, or knots that do not run from progress 0 to 1.

    Examples:
        >>> base = BaseSchedule(total_steps=100, final_fraction=0.1)
        >>> [round(float(f), 3) for f in relative_factor(base, [(0, 5.0), (1, 0.5)], [0, 50, 100])]
        [5.0, 2.525, 0.05]
    """
    check_knots(knots)
    curve = Curve(schedule, knots)
    if isinstance(step, int | np.integer):
        return curve(int(step))
    steps = np.asarray(step)
    values = (curve(int(t)) for t in steps.flat)
    return np.fromiter(values, np.float64, steps.size).reshape(steps.shape)


def warmup_steps(fraction: float, total_steps: int) -> int:
    """Warm-up steps for a share of all steps: rounded, and at least 1 unless the share is 0.

    >>> warmup_steps(0.02, 1000), warmup_steps(0.02, 10), warmup_steps(0, 10)
    (20, 1, 0)
    """
    return max(1, round(fraction * total_steps)) if fraction else 0


def check_knots(knots: Knots) -> None:
    """Raise a ValueError unless the knots run from progress 0 to 1, increasing, with ratios up to `LARGEST_RATE`."""
    at = [progress for progress, _ in knots]
    if len(at) < 2 or at[0] != 0 or at[-1] != 1 or any(b <= a for a, b in itertools.pairwise(at)):
        raise ValueError(f"knots should run from progress 0 to progress 1, increasing, not {at}")
    for progress, ratio in knots:
        if not 0 <= ratio <= LARGEST_RATE:
            raise ValueError(
                f"the ratio at progress {progress:g} should be 0 or more, at most {LARGEST_RATE:g}, not {ratio!r}"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)
