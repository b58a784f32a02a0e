"""Whether a run has the rates that it was asked to have: those of its parameter groups, report by report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from rlrs.ratios import BASE
from rlrs.runs.asked import AskedRun
from rlrs.schedules import Curve, Cycles, Points, factors

if TYPE_CHECKING:
    from torch.optim import Optimizer

TOLERANCE = 0.02
"""Relative difference from the schedule's rate, beyond which a rate is another one. Chosen here: rates computed
in another order of operations differ by rounding, and where a ratio is not used, by far more."""

FIRST_STEPS, LATER_LOOKS = 10, 50
"""Rates are compared at every report of the first steps, and so many times later. Chosen here."""


class SeenRates:
    """Rates of the groups that were watched, and the first that is not the schedule's.

    Args:
        asked: what the run is asked to be.
    """

    def __init__(self, asked: AskedRun) -> None:
        self._asked = asked
        self._base = asked.base_schedule()
        self._ratios = asked.relative_rates()
        self._points: dict[str, Points | Cycles] = {}
        """Component -> points of its curve: reports come every step, and a curve is dear to make."""
        self._next = 0
        """Step from which rates are compared again."""
        self.optimizers: list[Optimizer] = []
        self.peaks: dict[str, float] = {}
        """Component -> highest rate that its groups were seen with."""
        self._wrong: list[str | None] = [None, None]
        """The first wrong rate if reports come before the scheduler's step, and if they come after it."""

    def watch(self, *optimizers: Optimizer) -> None:
        """Look at these optimizers too."""
        self.optimizers += [new for new in optimizers if not any(new is old for old in self.optimizers)]

    @property
    def wrong(self) -> str | None:
        """What is wrong with the rates, whichever of the two a script's order is."""
        return self._wrong[1] if all(self._wrong) else None

    def look(self, step: int) -> None:
        """Compare all groups with the schedule, after so many steps: not at every report, which would cost too much."""
        if step < self._next:
            return
        self._next = step + (1 if step < FIRST_STEPS else max(self._asked.steps // LATER_LOOKS, 1))
        seen: dict[str, set[float]] = {}
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if (component := group.get("component")) is not None:
                    seen.setdefault(component, set()).add(float(group["lr"]))
        for component, rates in seen.items():
            self.peaks[component] = max(*rates, self.peaks.get(component, 0.0))
        # Before the scheduler's step the rate is that of the step just done, after it the next one's: a script
        # reports always before it or always after it.
        for later in (0, 1):
            if self._wrong[later] is None:
                self._wrong[later] = self._first_wrong(seen, step, step - 1 + later)

    def _first_wrong(self, seen: Mapping[str, Collection[float]], step: int, at: int) -> str | None:
        """What is wrong with the first component whose rate is not the schedule's at a step."""
        for component in seen.keys() - self._points.keys():
            self._points[component] = Curve(self._base, self._ratios.get(component, BASE).knots).points
        due_factors = factors(self._base, [self._points[component] for component in seen], at)
        for (component, rates), factor in zip(seen.items(), due_factors, strict=True):
            due = self._asked.lr * factor
            for rate in rates:
                if abs(rate - due) > TOLERANCE * due + 1e-12:
                    return self._say(component, rate, due, step, at)
        return None

    def _say(self, component: str, rate: float, due: float, step: int, at: int) -> str:
        plain = self._asked.lr * Curve(self._base)(at)
        ignored = component in self._ratios and abs(rate - plain) <= TOLERANCE * plain
        return (
            f"{component} had the rate {rate:.4g} at step {step}, where {due:.4g} was asked for: "
            f"{'its ratio was ignored' if ignored else 'it does not follow the schedule'}; use "
            "run.param_groups and run.scheduler, with scheduler.step() after every optimizer.step()"
        )

    def not_as_asked(self, used: Collection[str]) -> str | None:
        """What of what was asked for the run did not use, in words.

        Args:
            used: what of lr, seed and ratios the script has looked at.
        """
        asked, given = self._asked, set(self._asked.given)
        if {"ratios", "run"} & given or any("." in name for name in given):
            given |= {"ratios", *(("lr", "seed") if "run" in given else ())}
        if self.wrong is not None:
            return self.wrong
        hints = {
            "seed": "run.seed, or {seed} in the command",
            "lr": "run.param_groups and run.scheduler, run.lr, or {lr} in the command",
            "ratios": "run.param_groups and run.scheduler, or {ratios} in the command",
        }
        wanted = ["seed", "lr", *(["ratios"] if any(r != BASE for r in asked.relative_rates().values()) else [])]
        missing = next((name for name in wanted if name not in {*used, *given}), None)
        if missing is None:
            return None
        return f"it did not use its {missing}, so its numbers are those of another run: use {hints[missing]}"
