"""What a search may change: names of parameters, their bounds, which are fixed or tied, and the run of a point.

A point gives every parameter a value, in its own units. Methods move in coordinates: the natural logarithm of each
free parameter (of `1 - beta` for the two betas), so that a step is a factor. The same space serves every method.

| name | what it is |
| --- | --- |
| `lr`, `final_fraction` | base peak rate; base rate at the end over its peak |
| `COMPONENT.start`, `COMPONENT.end` | a component's ratio at the end of the warm-up and at the last step |
| `COMPONENT.25%` | its ratio at a quarter of the way: a knot between the two |
| `weight_decay`, `COMPONENT.weight_decay` | of all decayed parameters, of a component's own |
| `layer_decay`, `lora_plus` | of these arms: factor from a layer to the one below; rate of LoRA's B over A's |
| `init_scale`, `warmup_fraction`, `batch_size`, `beta1`, `beta2` | as in the settings of model, training and scale |
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from rlrs.models import at_width
from rlrs.ratios import BASE, Ratios
from rlrs.records import AtBound, Proposal
from rlrs.runs import OwnRun
from rlrs.training import RunSpec

Point = Mapping[str, float]
"""Parameter name -> value: `lr`, `final_fraction`, `COMPONENT.start`, `COMPONENT.end` and the others above."""

AnySpec = RunSpec | OwnRun
"""A run of the reference trainer, or of the user's own."""
_Spec = TypeVar("_Spec", bound=AnySpec)

SEARCHED = ("embedding", "attention", "feed_forward", "experts", "shared_experts", "router", "unembedding")
"""Components that get ratios of their own in a search; the rest follow the base rate (the paper's choice)."""

# Chosen here, not studied: far outside of anything useful; a value beyond them is a mistake.
_LIMITS = {
    "lr": (1e-7, 10.0),
    "final_fraction": (1e-5, 1.0),
    "weight_decay": (1e-6, 10.0),
    "init_scale": (1e-4, 100.0),
    "warmup_fraction": (1e-4, 0.5),
    "batch_size": (1.0, 65536.0),
    "beta1": (0.0, 0.9999),
    "beta2": (0.0, 0.999999),
    "layer_decay": (0.1, 1.0),
    "lora_plus": (0.1, 1000.0),
}
_RATIO_LIMITS = (1e-4, 1e4)
# Chosen here, not studied: how far from its start a parameter is searched, as a factor, unless bounds are given.
_REACH = {"lr": 16.0, "final_fraction": 32.0, "lora_plus": 16.0}
_RATIO_REACH = 64.0
_OTHER_REACH = 10.0
_EDGE = 0.01
"""Share of a parameter's range, as a logarithm, within which a value counts as being at the bound. Chosen here."""
_WIDER = 10.0
"""How far beyond a bound a search is advised to look, as a factor. Chosen here."""
_KNOT = re.compile(r"(\d+(?:\.\d+)?)%")


def bounds(name: str) -> tuple[float, float]:
    """Lowest and highest value that a parameter of this name may have at all."""
    return _LIMITS.get(name) or _LIMITS.get(name.rpartition(".")[2]) or _RATIO_LIMITS


def start_point(lr: float, final_fraction: float, ratios: Ratios, components: Iterable[str]) -> dict[str, float]:
    """The point a search starts from, with a start and an end ratio for each of `components`.

    A final fraction of 1, which a constant schedule has, is not searched.

    >>> start_point(0.01, 0.1, Ratios({"embedding": (5, 0.5)}), ["embedding"])
    {'lr': 0.01, 'final_fraction': 0.1, 'embedding.start': 5.0, 'embedding.end': 0.5}
    """
    point = {"lr": lr} if final_fraction == 1 else {"lr": lr, "final_fraction": final_fraction}
    for component in components:
        ratio = ratios.get(component)
        point[f"{component}.start"] = ratio.start if ratio else 1.0
        point[f"{component}.end"] = ratio.end if ratio else 1.0
    return point


def ratios_at(point: Point) -> Ratios:
    """The ratios in a point.

    >>> ratios_at({"lr": 0.01, "embedding.start": 5.0, "embedding.end": 0.5})["embedding"].knots
    ((0.0, 5.0), (1.0, 0.5))
    """
    knots: dict[str, list[tuple[float, float]]] = {}
    for name, value in point.items():
        component, _, part = name.rpartition(".")
        if component and (progress := knot_progress(part)) is not None:
            knots.setdefault(component, []).append((progress, value))
    return Ratios({component: sorted(pairs) for component, pairs in knots.items()})


def knot_progress(part: str) -> float | None:
    """Progress from 0 to 1 of a ratio's knot; None for what is no knot."""
    if part in ("start", "end"):
        return float(part == "end")
    knot = _KNOT.fullmatch(part)
    return float(knot[1]) / 100 if knot else None


def run_at(point: Point, spec: _Spec) -> _Spec:
    """The run of a point: `spec` with everything that the point names in the place of what `spec` has.

    Another batch size trains on the same number of tokens, in as many steps as that takes. A point without ratios
    leaves those of `spec`.

    >>> from rlrs.settings import ModelConfig, TrainingConfig
    >>> spec = RunSpec(
    ...     model=ModelConfig(d_model=16, n_layers=1, n_heads=2), training=TrainingConfig(dtype="float32"), steps=100,
    ...     batch_size=4, seed=0, lr=0.01, final_fraction=0.1, ratios={}, data_hash="seven",
    ... )
    >>> run = run_at({"lr": 0.02, "batch_size": 8, "embedding.start": 5.0, "embedding.end": 1.0}, spec)
    >>> run.lr, run.steps, run.ratios
    (0.02, 50, {'embedding': [(0.0, 5.0), (1.0, 1.0)]})
    """
    training: dict[str, Any] = {}
    changes: dict[str, Any] = {}
    for name in ("weight_decay", "warmup_fraction"):
        if name in point:
            training[name] = point[name]
    if "beta1" in point or "beta2" in point:
        training["betas"] = tuple(
            point.get(n, old) for n, old in zip(("beta1", "beta2"), spec.training.betas, strict=True)
        )
    own = {n.rpartition(".")[0]: v for n, v in point.items() if n.endswith(".weight_decay")}
    if own:
        training["component_weight_decay"] = {**spec.training.component_weight_decay, **own}
    if "init_scale" in point and isinstance(spec, RunSpec):
        changes["model"] = spec.model.model_copy(update={"init_scale": point["init_scale"]})
    if "batch_size" in point and isinstance(spec, RunSpec):
        changes["batch_size"] = size = round(point["batch_size"])
        changes["steps"] = max(1, round(spec.steps * spec.batch_size / size))
    ratios = ratios_at(point)
    return replace(
        spec,
        lr=point.get("lr", spec.lr),
        final_fraction=point.get(
            "final_fraction", 1.0 if spec.training.schedule == "constant" else spec.final_fraction
        ),
        # A ratio of 1 is the base rate, so it is left out: equal runs have equal ids.
        ratios={c: list(r.knots) for c, r in ratios.items() if r != BASE} if ratios else spec.ratios,
        training=spec.training.model_copy(update=training),
        **changes,
    )


def run_for(proposal: Proposal, spec: _Spec) -> _Spec:
    """The run of a proposal, from the whole run that its params stand for (`run_at`).

    The score's window shrinks with the steps, so that a shorter run is scored on the same share of its schedule.

    >>> from rlrs.settings import ModelConfig, TrainingConfig
    >>> spec = RunSpec(
    ...     model=ModelConfig(d_model=16, n_layers=1, n_heads=2), training=TrainingConfig(dtype="float32"), steps=100,
    ...     batch_size=4, seed=0, lr=0.01, final_fraction=0.1, ratios={}, data_hash="seven",
    ... )
    >>> run_for(Proposal(params={"lr": 0.02}, move="shorter", steps=50), spec).steps
    50
    """
    if proposal.steps is not None and proposal.steps != spec.steps:
        window = max(1, round(spec.training.score_steps * proposal.steps / spec.steps))
        training = spec.training.model_copy(update={"score_steps": window})
        spec = replace(spec, steps=proposal.steps, training=training)
    if proposal.width is not None and isinstance(spec, RunSpec):
        spec = replace(spec, model=at_width(spec.model, proposal.width))
    if proposal.learn is not None:
        assert isinstance(spec, RunSpec), "settings refuse it for a trainer of the user's own"
        spec = replace(spec, learn=proposal.learn)
    return spec if proposal.seed is None else replace(spec, seed=proposal.seed)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a space.

    Args:
        name: see the table above.
        start: value that the search starts from.
        low, high: bounds of its values, inclusive; not used where it is fixed or tied.
        fixed: it stays at `start`.
        tie: (factor, name): it is that factor times another parameter.
        when: (name, sign, value): it is searched where that holds, and stays at `start` elsewhere.
    """

    name: str
    start: float
    low: float
    high: float
    fixed: bool = False
    tie: tuple[float, str] | None = None
    when: tuple[str, str, float] | None = None

    @property
    def free(self) -> bool:
        """Whether methods move it."""
        return not self.fixed and self.tie is None

    def coordinate(self, value: float) -> float:
        """The logarithm that methods move in."""
        return -math.log(1 - value) if self.name in ("beta1", "beta2") else math.log(value)

    def value(self, coordinate: float) -> float:
        """The value at a coordinate, within bounds, to six significant digits."""
        value = 1 - math.exp(-coordinate) if self.name in ("beta1", "beta2") else math.exp(coordinate)
        if self.name == "batch_size":
            value = round(value)
        return min(max(float(f"{value:.6g}"), self.low), self.high)

    def beyond(self, bound: Literal["low", "high"]) -> float | None:
        """A wider bound, within what the parameter may be at all; None where it is as wide as that."""
        least, most = bounds(self.name)
        near, far = (self.low, least) if bound == "low" else (self.high, most)
        if near == far:
            return None
        step = math.log(_WIDER) * (1 if bound == "high" else -1)
        return replace(self, low=least, high=most).value(self.coordinate(near) + step)


class Space:
    """The parameters of a search, in order.

    Args:
        parameters: what `read_space` made, or `Space.around`.

    >>> space = Space.around({"lr": 0.01, "embedding.start": 5.0})
    >>> space.names, space.moved(space.start(), "lr", 2.0)
    (['lr', 'embedding.start'], {'lr': 0.02, 'embedding.start': 5.0})
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = {p.name: p for p in parameters}
        self.free = [p for p in parameters if p.free]
        self.names = [p.name for p in self.free]

    @classmethod
    def around(cls, start: Point) -> Space:
        """All parameters of a point, free, within a stated factor of where they are."""
        return cls([parameter(name, value) for name, value in start.items()])

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters.values())

    def __len__(self) -> int:
        """Number of free parameters."""
        return len(self.free)

    def start(self) -> dict[str, float]:
        """The point that a search starts from."""
        return self.point([p.coordinate(p.start) for p in self.free])

    def coordinates(self, point: Point) -> list[float]:
        """Logarithms of the free parameters of a point."""
        return [p.coordinate(point[p.name]) for p in self.free]

    def limits(self) -> list[tuple[float, float]]:
        """Lowest and highest coordinate of every free parameter."""
        return [(p.coordinate(p.low), p.coordinate(p.high)) for p in self.free]

    def point(self, coordinates: Sequence[float]) -> dict[str, float]:
        """The point at these coordinates: rounded, within bounds, with the fixed and tied parameters."""
        values = {p.name: p.value(float(x)) for p, x in zip(self.free, coordinates, strict=True)}
        point = {p.name: values.get(p.name, p.start) for p in self}
        for parameter in self:
            if parameter.when is not None:
                name, sign, value = parameter.when
                if not (point[name] > value if sign == ">" else point[name] < value):
                    point[parameter.name] = parameter.start
        for parameter in self:  # after conditions: what is tied follows what it is tied to
            if parameter.tie is not None:
                factor, name = parameter.tie
                low, high = bounds(parameter.name)
                point[parameter.name] = min(max(float(f"{factor * point[name]:.6g}"), low), high)
        return point

    def at_bounds(self, point: Point) -> list[AtBound]:
        """The free parameters of a point that are at the lowest or highest value that is searched.

        >>> [at] = Space.around({"lr": 0.01, "embedding.end": 1.0}).at_bounds({"lr": 0.01, "embedding.end": 0.015625})
        >>> at.name, at.bound, at.wider
        ('embedding.end', 'low', 0.0015625)
        """
        found = []
        for p in self.free:
            low, high, x = p.coordinate(p.low), p.coordinate(p.high), p.coordinate(point[p.name])
            near = _EDGE * (high - low)
            if x <= low + near:
                found.append(AtBound(name=p.name, value=point[p.name], bound="low", wider=p.beyond("low")))
            elif x >= high - near:
                found.append(AtBound(name=p.name, value=point[p.name], bound="high", wider=p.beyond("high")))
        return found

    def moved(self, point: Point, name: str, multiplier: float) -> dict[str, float] | None:
        """The point with one parameter multiplied (of a beta, its distance from 1 divided); None out of bounds."""
        parameter = self.parameters[name]
        coordinate = parameter.coordinate(point[name]) + math.log(multiplier)
        if not parameter.coordinate(parameter.low) - 1e-9 <= coordinate <= parameter.coordinate(parameter.high) + 1e-9:
            return None
        coordinates = {p.name: p.coordinate(point[p.name]) for p in self.free} | {name: coordinate}
        return self.point(list(coordinates.values()))


def parameter(name: str, start: float, low: float | None = None, high: float | None = None) -> Parameter:
    """A free parameter within its reach of `start`, or within the bounds given."""
    least, most = bounds(name)
    kind = name.rpartition(".")[2]
    reach = _REACH.get(name, _RATIO_REACH if knot_progress(kind) is not None else _OTHER_REACH)
    if name in ("beta1", "beta2"):
        near, far = 1 - (1 - start) * reach, 1 - (1 - start) / reach
    else:
        near, far = start / reach, start * reach
    low = max(near, least) if low is None else low
    high = min(far, most) if high is None else high
    return Parameter(name, start, float(f"{low:.6g}"), float(f"{high:.6g}"))
