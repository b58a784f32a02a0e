r"""Base schedules, and the rule that gives a component's learning rate from a base schedule and its ratios.

With base peak rate `eta`, final fraction `alpha`, ratios `s` (start) and `e` (end), `W` warm-up steps, `T` total
steps and the 0-based step `t` (Ludziejewski et al., 2025, arXiv:2507.03526):

    start = eta * s,   end = eta * alpha * e
    t < W         lr(t) = start * (t + 1) / W
    W <= t < T    lr(t) = end + (start - end) * c(t),    cosine: c(t) = 0.5 * (1 + cos(pi * (t - W) / (T - W)))
    t >= T        lr(t) = end

Both ends are scaled and the curve runs between them, so ratios of 1 are exactly the base schedule. Everything here
is in units of `eta`: a pure function from step to factor.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

SHAPES = ("cosine", "linear", "constant", "wsd")

Knots = Sequence[tuple[float, float]]
"""Pairs (progress, ratio): progress 0 is the end of the warm-up, 1 the last step; increasing, from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class BaseSchedule:
    """Warm-up followed by a decay from 1 to `final_fraction`, in units of the base peak rate.

    Args:
        total_steps: `T`, in optimizer steps, warm-up included; at least 1.
        warmup_steps: `W`, from 0 to `T`. The rate rises linearly and reaches its peak at step `W - 1`.
        final_fraction: `alpha`, the base rate at the end over its peak, from 0 to 1. If None: 1 for `constant`,
            else 0.1 (Hoffmann et al., 2022, arXiv:2203.15556).
        shape: `cosine`, `linear`, `constant` (the base stays at its peak and the ratios move linearly in
            progress), or `wsd` (warm-up, stable, linear decay; Hu et al., 2024, arXiv:2404.06395).
        decay_fraction: share of the total steps in which `wsd` decays; 0.2 is chosen here, not studied.

    Raises:
        ValueError: a value out of its range; the message names it.
    """

    total_steps: int
    warmup_steps: int = 0
    final_fraction: float | None = None
    shape: str = "cosine"
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        for name in ("total_steps", "warmup_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name} should be a whole number of steps, not {value!r}")
        if self.total_steps < 1:
            raise ValueError(f"total_steps should be at least 1, not {self.total_steps}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(
                f"warmup_steps should be from 0 to total_steps={self.total_steps}, not {self.warmup_steps}"
            )
        if self.shape not in SHAPES:
            raise ValueError(f"shape should be one of {', '.join(SHAPES)}, not {self.shape!r}")
        if self.final_fraction is None:
            object.__setattr__(self, "final_fraction", 1.0 if self.shape == "constant" else 0.1)
        elif not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction should be from 0 to 1, not {self.final_fraction!r}")
        elif self.shape == "constant" and self.final_fraction != 1:
            raise ValueError(
                f"final_fraction={self.final_fraction!r}: a constant schedule ends at its peak; leave it out"
            )
        if self.shape == "wsd":
            room = (self.total_steps - self.warmup_steps) / self.total_steps
            if not 0 < self.decay_fraction <= (room or 1):
                raise ValueError(
                    f"decay_fraction should be above 0 and at most {room:.6g}, the share of the steps after "
                    f"the warm-up, not {self.decay_fraction!r}"
                )

    @property
    def alpha(self) -> float:
        """The final fraction, resolved."""
        assert self.final_fraction is not None
        return self.final_fraction

    @property
    def decay_steps(self) -> int:
        """`T - W`, the steps after the warm-up; 1 where there are none, so that progress is defined."""
        return max(self.total_steps - self.warmup_steps, 1)

    def decay(self, elapsed: float) -> float:
        """`c`, from 1 at `elapsed` = 0 to 0 at `T - W`; `elapsed` is in steps since the end of the warm-up."""
        length = self.decay_steps
        if self.shape == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * elapsed / length))
        if self.shape == "wsd":
            return min(1.0, (length - elapsed) / (self.decay_fraction * self.total_steps))
        return 1.0 - elapsed / length


class Curve:
    """A component's rate in units of the base peak rate, as a function of the step.

    Two knots are the formula at the top of this module. With more, the same rule holds between neighbours: at
    knot `k` the rate is the base rate there times the ratio, and between knots it is linear in `c` (in progress,
    where `c` does not move: the stable phase of `wsd`).
    """

    def __init__(self, schedule: BaseSchedule, knots: Knots = ((0.0, 1.0), (1.0, 1.0))) -> None:
        self.schedule = schedule
        self._elapsed = [progress * schedule.decay_steps for progress, _ in knots]
        # In exact arithmetic c(0) = 1 and c(T - W) = 0; the cosine of a floating pi is not relied on for that.
        self._decay = [1.0, *(schedule.decay(at) for at in self._elapsed[1:-1]), 0.0]
        self._levels = [
            (c + schedule.alpha * (1.0 - c)) * ratio for c, (_, ratio) in zip(self._decay, knots, strict=True)
        ]

    def __call__(self, step: int) -> float:
        """The factor at a 0-based step; the last value from step `T` on.

        Raises:
            ValueError: a negative step.
        """
        total, warmup = self.schedule.total_steps, self.schedule.warmup_steps
        if step < 0:
            raise ValueError(f"step should be 0 or more, not {step}")
        if step < warmup:
            return self._levels[0] * (step + 1) / warmup
        if step >= total:
            return self._levels[-1]
        elapsed = step - warmup
        k = bisect_right(self._elapsed, elapsed, 1, len(self._elapsed) - 1) - 1
        start, end = self._levels[k], self._levels[k + 1]
        return end + (start - end) * self._share(k, elapsed)

    def _share(self, k: int, elapsed: float) -> float:
        """How much of the way from knot `k + 1` back to knot `k` is left: 1 at `k`, 0 at `k + 1`."""
        high, low = self._decay[k], self._decay[k + 1]
        if high > low:
            return (self.schedule.decay(elapsed) - low) / (high - low)
        return (self._elapsed[k + 1] - elapsed) / (self._elapsed[k + 1] - self._elapsed[k])


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
    """
    check_knots(knots)
    curve = Curve(schedule, knots)
    if isinstance(step, int | np.integer):
        return curve(int(step))
    steps = np.asarray(step)
    return np.array([curve(int(t)) for t in steps.flat], dtype=np.float64).reshape(steps.shape)


def warmup_steps(fraction: float, total_steps: int) -> int:
    """Warm-up steps for a share of all steps: rounded, and at least 1 unless the share is 0."""
    return max(1, round(fraction * total_steps)) if fraction else 0


def check_knots(knots: Knots) -> None:
    """Raise a ValueError unless the knots run from progress 0 to 1, increasing, with finite ratios >= 0."""
    at = [progress for progress, _ in knots]
    if len(at) < 2 or at[0] != 0 or at[-1] != 1 or any(b <= a for a, b in itertools.pairwise(at)):
        raise ValueError(f"knots should run from progress 0 to progress 1, increasing, not {at}")
    for progress, ratio in knots:
        if not (math.isfinite(ratio) and ratio >= 0):
            raise ValueError(f"the ratio at progress {progress:g} should be 0 or more, not {ratio!r}")
