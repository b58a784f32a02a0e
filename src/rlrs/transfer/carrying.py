"""What becomes of each component's ratios at the target: carried, rescaled by the law, or dropped.

Shapes: D coordinates, S draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlrs.search.space import Space, knot_progress
from rlrs.transfer.axes import Array, Size
from rlrs.transfer.law import LEVEL, RatioLaw

WORTH = 0.002
"""Least gain of the law's ratios over the proxy's that is worth a change, nats. Chosen here, not studied."""
SURE = 0.8
"""Share of the draws in which the law's ratios have to gain something on the proxy's to take their place. Of one ratio
that is so where the proxy's is at the edge of its interval at `LEVEL`, or outside. Chosen here."""
MARGIN = 0.02
"""A gain at the target of no more than this is none to carry a component for, nats: `comparison.margin`'s default."""
_REST = ""
"""In the place of a component's name: what is searched beside ratios and base rate."""
Fate = Literal["carry", "rescale", "drop"]
Band = tuple[float, float, float]
"""Median, low and high of draws, at `LEVEL`."""


def band(draws: Array) -> Band:
    """Median and interval of draws [S].

    Examples:
        >>> [round(value, 6) for value in band(np.arange(101.0))]
        [50.0, 5.0, 95.0]
    """
    low, middle, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5, 0.5 + LEVEL / 2])
    return float(middle), float(low), float(high)


@dataclass(frozen=True)
class ComponentFate:
    """On one component.

    Args:
        component: its name.
        fate: what becomes of its ratios.
        reason: in words.
        found: parameter -> ratio that the proxy's search found.
        predicted: parameter -> the best ratio at the target, by the law.
        used: parameter -> ratio at the target.
        gain: what the ratios that the law or the proxy give are worth at the target, against putting the component back
            to the base rate and tuning that again, nats.
        shown: whether the gain's interval says what became of it: above 0 for one that is kept, below the margin for
            one that is dropped.
    """

    component: str
    fate: Fate
    reason: str
    found: Mapping[str, float]
    predicted: Mapping[str, Band]
    used: Mapping[str, float]
    gain: Band
    shown: bool


@dataclass(frozen=True)
class Transferred:
    """What an arm has at the target by its law.

    Args:
        point: all parameters, base rate included.
        verdicts: on the components that were searched.
        lr: the best base rate with these ratios.
        penalty: loss of this point above the best one there, base rate tuned again, [S], nats.
    """

    point: Mapping[str, float]
    verdicts: tuple[ComponentFate, ...]
    lr: Band
    penalty: Array


def judge(
    law: RatioLaw,
    space: Space,
    found: Mapping[str, float],
    at: Size,
    lost: Mapping[str, str] | None = None,
    margin: float = MARGIN,
) -> Transferred:
    """Carry, rescale or drop, component by component, and the base rate that goes with it.

    At first all components are *carried*: they have the ratios that the proxy's search found. One is *rescaled* to the
    law's value where that is expected to gain more than `WORTH`, and something in `SURE` of the draws. Then, one after
    another, those are *dropped* whose gain over the base rate is shown to be small: its interval ends below the margin.
    Where the interval holds both nothing and more than the margin, neither is shown, and the component stays. What is
    searched beside ratios and base rate, as the final fraction, is carried or moved by the law likewise, as one. Base
    rate and rescaled ratios are where the mean loss over the draws is least.

    Args:
        law: of the arm.
        space: that was searched.
        found: the point that the proxy's search found.
        at: the target.
        lost: component -> why it is to be dropped whatever the law says.
        margin: a gain of no more than this is none, nats.
    """
    columns = _columns(space)
    groups = columns | {_REST: _rest(space)}
    best = _Best(law, space, found, at, groups)
    fates: dict[str, Fate] = dict.fromkeys(groups, "carry")
    why = dict(lost or {})
    fates |= dict.fromkeys((component for component in columns if component in why), "drop")

    def change(component: str, fate: Fate) -> Array:
        """What another fate of one component would gain, draw by draw."""
        return best.gain({**fates, component: fate}, fates)

    while better := {c: m for c in groups if fates[c] == "carry" and (m := _sure_gain(change(c, "rescale"))) > WORTH}:
        fates[max(better, key=lambda component: (better[component], component))] = "rescale"
    while small := {c: most for c in columns if fates[c] != "drop" and (most := band(-change(c, "drop"))[2]) < margin}:
        least = min(small, key=lambda component: (small[component], component))
        fates[least] = "drop"
        why[least] = f"no gain above {margin:g} nats survives"
    point = best.point(fates)
    optima = best.optima
    shift = optima.shift(law.rates.coordinates(point))
    own_rate = np.full(1, found["lr"]) if "lr" not in space.names else np.exp(point[space.names.index("lr")] + shift)
    lr = band(own_rate)
    draws = law.logarithms(at)
    verdicts = []
    for component, own in columns.items():
        fate = fates[component]
        mine = {space.names[c]: found[space.names[c]] for c in own}
        predicted = {space.names[c]: band(np.exp(draws[:, c])) for c in own}
        used = {space.names[c]: float(f"{np.exp(point[c]):.6g}") for c in own}
        kept: dict[str, Fate] = fates if fate != "drop" else {**fates, component: "rescale"}
        gain = band(best.gain(kept, {**fates, component: "drop"}))
        shown = gain[2] < margin or component in (lost or {}) if fate == "drop" else gain[1] > 0
        reason = _reason(fate, why.get(component), mine, used, gain, shown)
        verdicts.append(ComponentFate(component, fate, reason, mine, predicted, used, gain, shown))
    return Transferred(
        point=space.point(point.tolist()) | {"lr": float(f"{lr[0]:.6g}")},
        verdicts=tuple(verdicts),
        lr=lr,
        penalty=optima.penalty(law.rates.coordinates(point)),
    )


def _columns(space: Space) -> dict[str, list[int]]:
    """Component -> places of its ratios among the searched parameters."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(space.names):
        component, _, part = name.rpartition(".")
        if component and knot_progress(part) is not None:
            columns.setdefault(component, []).append(column)
    return columns


def _rest(space: Space) -> list[int]:
    """Places of what is searched beside base rate and ratios."""
    ratios = {column for own in _columns(space).values() for column in own}
    return [column for column, name in enumerate(space.names) if column not in ratios and name != "lr"]


def _sure_gain(draws: Array) -> float:
    """Median of a gain; 0 where it is not sure that there is one."""
    return float(np.median(draws)) if (draws > 0).mean() >= SURE else 0.0


class _Best:
    """Points with some groups carried or dropped, and all else where the mean loss over a law's draws is least."""

    def __init__(
        self, law: RatioLaw, space: Space, found: Mapping[str, float], at: Size, columns: Mapping[str, list[int]]
    ) -> None:
        self.optima = law.optima(at)
        self._rates, self._columns = law.rates, columns
        self._found = np.array(space.coordinates(found))
        self._limits = space.limits()
        self._hessian = self.optima.hessians.mean(0)
        self._pull = np.einsum("sde,se->d", self.optima.hessians, self.optima.points) / len(self.optima.points)
        self._known: dict[tuple[tuple[str, Fate], ...], Array] = {}

    def point(self, fates: Mapping[str, Fate]) -> Array:
        """Logarithms [D]."""
        key = tuple(sorted(fates.items()))
        if key not in self._known:
            self._known[key] = self._solved(fates)
        return self._known[key]

    def gain(self, one: Mapping[str, Fate], other: Mapping[str, Fate]) -> Array:
        """By how much the loss is lower with one set of fates than with another, nats, [S]."""
        lower, higher = (self.optima.penalty(self._rates.coordinates(self.point(fates))) for fates in (one, other))
        return np.asarray(higher - lower)

    def _solved(self, fates: Mapping[str, Fate]) -> Array:
        from scipy.optimize import minimize

        point, free = self._found.copy(), np.ones(len(self._found), dtype=bool)
        for component, own in self._columns.items():
            free[own] = fates[component] == "rescale"
            if fates[component] == "drop":
                point[own] = 0.0
        if not free.any():
            return point

        def loss(values: Array) -> float:
            point[free] = values
            v = self._rates.coordinates(point)
            return float(0.5 * v @ self._hessian @ v - v @ self._pull)

        limits = [limit for limit, moves in zip(self._limits, free, strict=True) if moves]
        point[free] = minimize(loss, point[free], method="L-BFGS-B", bounds=limits).x
        return point


def _reason(
    fate: Fate, why: str | None, found: Mapping[str, float], used: Mapping[str, float], gain: Band, shown: bool
) -> str:
    worth = f"worth {gain[0]:+.3f} nats at the target ({gain[1]:+.3f} to {gain[2]:+.3f})"
    if fate == "drop":
        return f"{why}: ratios of its own are {worth}"
    if not shown:
        worth = f"{worth}, which shows neither a gain nor its absence"
    if fate == "carry":
        return f"no gain of the law's ratios on them is shown; {worth}"
    factors = ", ".join(f"{name.rpartition('.')[2]} times {used[name] / found[name]:.3g}" for name in found)
    return f"{factors}, by the law; {worth}"
