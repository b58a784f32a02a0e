"""From observations to the values that checks compare: a pure function of the observations so far."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from statistics import median
from typing import Any

from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.observation import ComponentNumbers, Observation

Key = tuple[str, str | None]
"""A check, and a component (None: the whole model)."""

WINDOW = 20
"""Observations that medians are taken over. Chosen here, not studied."""
ENOUGH = 8
"""Observations before a window says anything. Chosen here, not studied."""
_TO_SIGMA = 1.4826  # median absolute deviation -> standard deviation of a normal distribution


class Signals:
    """Windows over past observations. Values that are not finite numbers never enter one."""

    def __init__(self) -> None:
        self._windows: dict[str, deque[float]] = {}
        self._recent: dict[Key, deque[float]] = {}  # the last values of a check, as many as it has patience
        self._lowest: dict[str, float] = {}  # loss (median of three) and gap
        self._first: dict[str, float] = {}  # weight norms
        self._excess: dict[str, dict[str, float]] = {}
        self._count = 0

    def update(self, seen: Observation) -> dict[Key, float]:
        """Take an observation in; the values to compare now, each the mildest of as many as its check has patience."""
        self._excess = {}
        settled: dict[Key, float] = {}
        for key, value in self._values(seen):
            patience = CHECKS[key[0]].patience
            recent = self._recent.setdefault(key, deque(maxlen=patience))
            recent.append(value)
            if len(recent) == patience:
                mildest = recent[0]
                for one in recent:
                    mildest = CHECKS[key[0]].mildest(mildest, one)
                settled[key] = mildest
        self._count += 1
        return settled

    def last(self, check: str) -> dict[str, float]:
        """The last value of a check for every component that has one, whatever its patience."""
        return {name: values[-1] for (of, name), values in self._recent.items() if of == check and name is not None}

    def suspects(self) -> list[tuple[str, float, str]]:
        """Components by how far they are above their usual, (component, factor, of what), the furthest first."""
        found = [(component, factor, what) for what, by in self._excess.items() for component, factor in by.items()]
        return sorted(found, key=lambda one: (-one[1], one[0], one[2]))

    def _values(self, seen: Observation) -> Iterator[tuple[Key, float]]:
        yield from self._finite(seen)
        if seen.loss is not None and math.isfinite(seen.loss):
            yield from self._loss(seen.loss)
        for name, numbers in seen.components.items():
            yield from self._component(name, numbers)
        yield from self._clipping(seen)
        yield from self._router(seen)
        if seen.valid_loss is not None and math.isfinite(seen.valid_loss) and (losses := self._window("loss")):
            gap = seen.valid_loss - median(list(losses)[-3:])
            lowest = self._lowest["gap"] = min(gap, self._lowest.get("gap", gap))
            yield ("generalisation_gap", None), gap - lowest
        if seen.speed is not None and seen.speed > 0 and (usual := self._usual("speed", seen.speed)) is not None:
            yield ("throughput", None), seen.speed / usual

    def _finite(self, seen: Observation) -> Iterator[tuple[Key, float]]:
        components = {
            name: any(not math.isfinite(value) for value in vars(numbers).values() if value is not None)
            for name, numbers in seen.components.items()
        }
        whole = any(v is not None and not math.isfinite(v) for v in (seen.loss, seen.valid_loss, seen.grad_norm))
        # One alarm for one overflow: of the components where it is still in some of them.
        some = 0 < sum(components.values()) < len(components)
        for name, bad in components.items():
            yield ("non_finite", name), float(bad and some)
        yield ("non_finite", None), float((whole or any(components.values())) and not some)

    def _loss(self, loss: float) -> Iterator[tuple[Key, float]]:
        window = self._window("loss")
        if len(window) >= ENOUGH:
            middle = median(window)
            spread = _TO_SIGMA * median(abs(one - middle) for one in window)
            # A window of equal losses has no spread: a thousandth of the loss is none either.
            yield ("loss_spike", None), (loss - middle) / max(spread, 1e-3 * abs(middle), 1e-12)
        window.append(loss)
        if len(window) >= 3:
            smooth = median(list(window)[-3:])
            if "loss" in self._lowest:
                yield ("loss_rise", None), smooth - self._lowest["loss"]
            self._lowest["loss"] = min(smooth, self._lowest.get("loss", smooth))

    def _component(self, name: str, numbers: ComponentNumbers) -> Iterator[tuple[Key, float]]:
        lr, scheduled = numbers.lr, numbers.scheduled_lr
        if lr is not None and scheduled is not None and math.isfinite(lr):
            off = abs(lr - scheduled) / scheduled if scheduled else (math.inf if lr else 0.0)
            yield ("rate_off_schedule", name), off
        moving = lr is None or lr > 0
        grad_norm, update = numbers.grad_norm, numbers.update_ratio
        if grad_norm is not None and math.isfinite(grad_norm):
            relative = self._relative("grad_norm", name, grad_norm)
            if relative is not None:
                yield ("gradient_spike", name), relative
            if moving and (grad_norm == 0 or update == 0):
                yield ("dead_component", name), 0.0
            elif moving and relative is not None:
                yield ("dead_component", name), min(relative, 1.0)
        if update is not None and math.isfinite(update) and moving:
            self._relative("update_ratio", name, update)
            yield ("update_ratio_high", name), update
            if update:  # none at all is a dead component
                yield ("update_ratio_low", name), update
        norm = numbers.weight_norm
        if norm and math.isfinite(norm):
            yield ("weight_growth", name), norm / self._first.setdefault(name, norm)

    def _relative(self, what: str, component: str, value: float) -> float | None:
        """A value over its usual; None before that is known. What is above is kept for `suspects`."""
        usual = self._usual(f"{what}/{component}", value)
        if usual is None:
            return None
        relative = value / usual if usual else (math.inf if value else 1.0)
        self._excess.setdefault(what, {})[component] = relative
        return relative

    def _clipping(self, seen: Observation) -> Iterator[tuple[Key, float]]:
        squares = {
            name: numbers.grad_norm**2
            for name, numbers in seen.components.items()
            if numbers.grad_norm is not None and math.isfinite(numbers.grad_norm)
        }
        if seen.clip is None or len(squares) < 2 or len(squares) < len(seen.components):
            return
        largest = max(squares, key=lambda name: squares[name])
        left = _left(seen.clip, sum(squares.values()))
        alone = _left(seen.clip, sum(square for name, square in squares.items() if name != largest))
        for name in squares:
            yield ("clip_starvation", name), left / alone if name == largest else 1.0

    def _router(self, seen: Observation) -> Iterator[tuple[Key, float]]:
        loads = [
            load for load in seen.router_loads if len(load) > 1 and math.isfinite(total := sum(load)) and total > 0
        ]
        if loads:
            yield ("router_collapse", "router"), min(_evenness(load) for load in loads)
        # At first no router distinguishes.
        if loads and seen.router_entropy is not None and self._count >= 2 * WINDOW:
            yield ("router_uniform", "router"), seen.router_entropy / math.log(len(loads[0]))

    def _window(self, name: str) -> deque[float]:
        return self._windows.setdefault(name, deque(maxlen=WINDOW))

    def _usual(self, name: str, value: float) -> float | None:
        """The window's median without the present value, which then enters it; None while it is too short."""
        window = self._window(name)
        usual = median(window) if len(window) >= ENOUGH else None
        window.append(value)
        return usual

    def state_dict(self) -> dict[str, Any]:
        """All windows, as plain lists."""
        return {
            "windows": {name: list(window) for name, window in self._windows.items()},
            "recent": [[check, component, list(values)] for (check, component), values in self._recent.items()],
            "lowest": dict(self._lowest),
            "first": dict(self._first),
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self._windows = {name: deque(values, maxlen=WINDOW) for name, values in state["windows"].items()}
        self._recent = {
            (check, component): deque(values, maxlen=CHECKS[check].patience)
            for check, component, values in state["recent"]
            if check in CHECKS
        }
        self._lowest, self._first, self._count = dict(state["lowest"]), dict(state["first"]), int(state["count"])
        self._excess = {}


def _left(clip: float, square: float) -> float:
    """What clipping leaves of gradients of this squared norm."""
    return min(1.0, clip / math.sqrt(square)) if square > 0 else 1.0


def _evenness(load: tuple[float, ...]) -> float:
    """Entropy of a load over that of an even one, 0 to 1."""
    total = sum(load)
    shares = [part / total for part in load if part > 0]
    return -sum(share * math.log(share) for share in shares) / math.log(len(load))
