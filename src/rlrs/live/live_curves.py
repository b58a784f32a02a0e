"""Curves of a run, thinned as they grow: a page shows a thousand points, a run may have millions."""

from __future__ import annotations

import math
from typing import Any

from rlrs.monitoring.checker import Checker
from rlrs.monitoring.observation import observation_of
from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import MetricsLine

POINTS = 1600
"""Points of a curve at most. Chosen here: more than a screen has columns."""
PARTS = ("lr", "grad_norm", "update_ratio")

Point = tuple[int, float | None]


class ThinnedCurve:
    """Values by step; of a long curve the lowest and highest of every few steps, so that no spike is lost.

    >>> curve = ThinnedCurve()
    >>> for step in range(1, 100_001):
    ...     curve.add(step, 9.0 if step == 77_777 else step % 7)
    >>> points = curve.points()
    >>> len(points) <= POINTS + 2, max(points, key=lambda point: point[1]), points[-1][0] > 99_900
    (True, (77777, 9.0), True)
    """

    def __init__(self) -> None:
        self._points: list[Point] = []
        self._waiting: list[Point] = []
        self._group = 1
        """Steps that two points stand for; one each at first."""

    def add(self, step: int, value: float | None) -> None:
        """The next point; a value that is no finite number is a gap."""
        self._waiting.append((step, value if value is not None and math.isfinite(value) else None))
        if len(self._waiting) < self._group:
            return
        self._points += _extremes(self._waiting)
        self._waiting = []
        if len(self._points) > POINTS:
            old, self._points = self._points, []
            for begin in range(0, len(old), 4):
                self._points += _extremes(old[begin : begin + 4])
            self._group = 4 if self._group == 1 else 2 * self._group

    def points(self) -> list[Point]:
        """What is left of it, in the order of the steps."""
        return [*self._points, *_extremes(self._waiting)]

    def plain(self) -> list[list[Any]]:
        """Steps, and values with six digits."""
        found = self.points()
        return [[step for step, _ in found], [None if v is None else float(f"{v:.6g}") for _, v in found]]


class RunCurves:
    """What the lines of a metrics.jsonl come to: curves, the last values, and the alarms that checks raise.

    Args:
        thresholds: of the checks; None for no checks.
        clip: the norm that gradients are clipped to, where lines do not say it.
    """

    def __init__(self, thresholds: Thresholds | None, clip: float | None = None) -> None:
        self.losses = {name: ThinnedCurve() for name in ("loss", "valid_loss")}
        self.components: dict[str, dict[str, ThinnedCurve]] = {}
        self.whole = {"lr": ThinnedCurve(), "grad_norm": ThinnedCurve()}
        self.last: dict[str, float] = {}
        """Last value of each number of a line."""
        self.first_seconds: tuple[int, float] | None = None
        self.not_finite: list[int] = []
        """Steps with a loss that is no finite number, at most a hundred."""
        self.alarms: list[dict[str, Any]] = []
        self._checker = Checker(thresholds) if thresholds is not None else None
        self._clip = clip

    def take(self, line: MetricsLine) -> None:
        """Take in a line."""
        for name in ("step", "loss", "valid_loss", "tokens", "tokens_per_second", "seconds", "grad_norm", "lr_base"):
            if (value := getattr(line, name)) is not None:
                self.last[name] = value
        if line.seconds is not None and self.first_seconds is None:
            self.first_seconds = (line.step, line.seconds)
        for name, curve in self.losses.items():
            if (value := getattr(line, name)) is not None:
                curve.add(line.step, value)
                if not math.isfinite(value) and len(self.not_finite) < 100:
                    self.not_finite.append(line.step)
        for name, value in (("lr", line.lr_base), ("grad_norm", line.grad_norm)):
            if value is not None:
                self.whole[name].add(line.step, value)
        for component, numbers in line.components.items():
            curves = self.components.setdefault(component, {part: ThinnedCurve() for part in PARTS})
            for part, curve in curves.items():
                curve.add(line.step, getattr(numbers, part))
        if self._checker is not None:
            for alarm in self._checker.look(observation_of(line, self._clip)):
                self.alarms.append({**alarm.to_plain(), "recorded": False})

    def seconds_per_step(self) -> float | None:
        """Of training, as far as lines say it."""
        if self.first_seconds is None or "seconds" not in self.last:
            return None
        steps = self.last["step"] - self.first_seconds[0]
        return (self.last["seconds"] - self.first_seconds[1]) / steps if steps > 0 else None

    def plain(self) -> dict[str, Any]:
        """All curves, as JSON has them."""
        whole = {name: curve.plain() for name, curve in self.whole.items()}
        return {
            "losses": {name: curve.plain() for name, curve in self.losses.items()},
            "parts": {
                part: {
                    **({"": whole[part]} if whole.get(part, [[]])[0] else {}),
                    **{name: curves[part].plain() for name, curves in self.components.items()},
                }
                for part in PARTS
            },
            "not_finite": self.not_finite,
        }


def _extremes(points: list[Point]) -> list[Point]:
    """The lowest and the highest of a few points, in their order; a gap counts as highest."""
    if len(points) <= 2:
        return list(points)
    low = min(points, key=lambda point: math.inf if point[1] is None else point[1])
    high = max(points, key=lambda point: math.inf if point[1] is None else point[1])
    return sorted({low, high}, key=lambda point: point[0])
