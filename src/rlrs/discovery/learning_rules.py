"""Rules by which ratios follow what a run shows of itself; each is a pure function from a step's figures to a move.

Everything is a natural logarithm of a component's rate over what its starting ratio would give: 0 at the start. Shapes
are those of plain lists: K components.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

Memory = dict[str, list[float]]
"""What a rule remembers from step to step: numbers alone, so that it can be saved with a run."""


@dataclass(frozen=True)
class StepFigures:
    """What a step shows, over all ranks.

    Args:
        alignment: `<gradient, minus the last update>` by component, nats per unit of log rate.
        everything: the same of all trained weights together.
        ratios: relative rate of each component in the step.
        moved: norm of each component's update; empty where a rule does not ask for it.
        size: norm of each component's weights; likewise.
    """

    alignment: Sequence[float]
    everything: float
    ratios: Sequence[float]
    moved: Sequence[float] = ()
    size: Sequence[float] = ()


class LearningRule(Protocol):
    """How ratios are learned."""

    @property
    def base(self) -> bool:
        """Whether the base rate is learned too: a move is then one longer than there are components."""
        ...

    @property
    def norms(self) -> bool:
        """Whether `StepFigures.moved` and `size` are needed."""
        ...

    def move(self, log: Sequence[float], figures: StepFigures, share: float, memory: Memory) -> list[float]:
        """Where the logarithms go from here.

        Args:
            log: of the components, and last that of the base.
            figures: of the step just done.
            share: of everything that may be moved in the run, this step's; they sum up to 1.
            memory: the rule's own; changed in place.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Hypergradient:
    """Normalised hypergradient: a rate rises while gradients agree with the last update, and falls while they do not.

    With `a_k = <g_k(t+1), theta_k(t) - theta_k(t+1)>`, which is what the loss falls per unit of log rate to first order
    (Almeida et al., 1998; Baydin et al., 2018, arXiv:1703.04782), each component by itself:

        v_k <- memory * v_k + (1 - memory) * a_k^2
        u_k = clip(a_k / sqrt(v_k), -clip, clip)
        log r_k <- log r_k + reach * share(t) * (u_k - log r_k / spread),     within a factor `bound`

    `share(t)` is annealed as the base schedule's own decay and sums up to 1 over a run, so that a `reach` means the
    same at any length. `log r_k` counts from the starting ratio, to which the prior pulls.

    Args:
        reach: by how much a rate would move in a whole run in which every `u_k` is 1, natural log.
        spread: of the prior, natural log: how far from its start a rate ends up where `u_k` is 1 on average; infinite
            for no prior.
        bound: largest factor from the start, above 1.
        memory: of the running mean square.
        clip: of a single step.
        base: learn the base rate too, from all weights together; components then move against their mean.

    Raises:
        ValueError: a value out of its range.
    """

    reach: float = 6.0
    spread: float = math.inf
    bound: float = 32.0
    memory: float = 0.99
    clip: float = 3.0
    base: bool = False

    @property
    def norms(self) -> bool:
        """Not needed."""
        return False

    def __post_init__(self) -> None:
        _check(self, reach=(0.0, 1e3), spread=(0.0, math.inf), bound=(1.0, 1e4), clip=(0.0, 1e3))
        if not 0 < self.memory < 1:
            raise ValueError(f"memory should be between 0 and 1, not {self.memory!r}")

    def move(self, log: Sequence[float], figures: StepFigures, share: float, memory: Memory) -> list[float]:
        """See `LearningRule.move`."""
        unit = self._normalised([*figures.alignment, figures.everything], memory)
        if self.base:
            mean = math.fsum(unit[:-1]) / max(len(unit) - 1, 1)
            unit = [*(one - mean for one in unit[:-1]), unit[-1]]
        else:
            unit[-1] = 0.0
        most, step = math.log(self.bound), self.reach * share
        # A long step towards the prior ends there, and does not jump over it.
        pull = min(step / self.spread, 1.0)
        return [min(max(x + step * u - pull * x, -most), most) for x, u in zip(log, unit, strict=True)]

    def _normalised(self, values: Sequence[float], memory: Memory) -> list[float]:
        """Values over their own running root mean square, within `clip`."""
        [count] = memory.setdefault("count", [0.0])
        squares = memory.setdefault("squares", [0.0] * len(values))
        memory["count"] = [count + 1]
        memory["squares"] = [self.memory * v + (1 - self.memory) * a * a for v, a in zip(squares, values, strict=True)]
        unbiased = 1 - self.memory ** (count + 1)
        sizes = [math.sqrt(v / unbiased) for v in memory["squares"]]
        return [min(max(a / s, -self.clip), self.clip) if s else 0.0 for a, s in zip(values, sizes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class EqualUpdates:
    """Equal relative updates: every component's `||update|| / ||weights||` is brought to their geometric mean.

    A rule without a look at the loss, as the layer-wise rates of LARS and LAMB are (arXiv:1708.03888, 1904.00962), by
    component in the place of by tensor.

    Args:
        memory: of the running mean of the logarithms.
        bound: largest factor from the start, above 1.

    Raises:
        ValueError: a value out of its range.
    """

    memory: float = 0.95
    bound: float = 32.0

    @property
    def base(self) -> bool:
        """Never."""
        return False

    @property
    def norms(self) -> bool:
        """Needed."""
        return True

    def __post_init__(self) -> None:
        _check(self, bound=(1.0, 1e4))
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory should be from 0 to below 1, not {self.memory!r}")

    def move(self, log: Sequence[float], figures: StepFigures, share: float, memory: Memory) -> list[float]:
        """See `LearningRule.move`."""
        known = zip(figures.moved, figures.size, figures.ratios, strict=True)
        # What the relative update would be at the base rate.
        raw = [math.log(m / (s * r)) if m > 0 and s > 0 and r > 0 else math.nan for m, s, r in known]
        there = [value for value in raw if not math.isnan(value)]
        if not there:
            return list(log)
        mean, most = math.fsum(there) / len(there), math.log(self.bound)
        kept = self.memory if "begun" in memory else 0.0
        memory["begun"] = [1.0]
        new = []
        for x, value, ratio in zip(log, raw, figures.ratios, strict=False):
            # The starting ratio is within the ratio; the logarithm counts from it.
            wanted = x if math.isnan(value) else mean - value - (math.log(ratio) - x)
            new.append(min(max(kept * x + (1 - kept) * wanted, -most), most))
        return [*new, 0.0]


def described(rule: LearningRule | None) -> dict[str, Any]:
    """A rule as plain data: its name and settings, infinity as text."""
    if rule is None:
        return {"name": "none"}
    settings = {f.name: getattr(rule, f.name) for f in fields(rule)}  # pyright: ignore[reportArgumentType]
    plain = {name: "inf" if value == math.inf else value for name, value in settings.items()}
    return {"name": type(rule).__name__, **plain}


def _check(rule: Any, **limits: tuple[float, float]) -> None:
    for name, (low, high) in limits.items():
        value = getattr(rule, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value <= high:
            raise ValueError(f"{name} should be a number above {low:g}, at most {high:g}, not {value!r}")
