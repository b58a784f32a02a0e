"""What is to be exported, and what of it is lost on the way."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from rlrs.ratios import Ratio, Ratios
from rlrs.schedules import LARGEST_RATE, SHAPES, BaseSchedule, Curve

_PROBES = 512
"""Steps at which two curves are compared; chosen here, not studied."""


class ExportError(ValueError):
    """Rates that cannot be written for a stack; one line: what is wrong, and what would be right."""


@dataclass(frozen=True)
class Plan:
    """Rates and names, checked; writers add to `losses` what their stack does otherwise."""

    to: str
    ratios: Ratios
    schedule: BaseSchedule
    lr: float
    weight_decay: float
    components: Mapping[str, Sequence[str]] | None
    weight_decays: Mapping[str, float] = field(default_factory=dict)
    found_with: Sequence[str] = ()
    betas: tuple[float, float] | None = None
    losses: list[str] = field(default_factory=list)

    def keep(self, component: str, kept: Ratio, what: str) -> Ratio:
        """The ratio that the stack can say for a component; what it changes goes to `losses`, with how much."""
        gap, step = _largest_gap(self.schedule, self.ratios[component], kept)
        if abs(gap) > 1e-9:
            times = "above 0 instead of 0" if gap == float("inf") else f"{1 + gap:.3g} times the wanted one"
            self.losses.append(f"{component}: {what} (its rate is {times} at step {step})")
        return kept

    def hold(self) -> dict[str, Ratio]:
        """Ratios for a stack with one schedule for all groups: every component keeps its start ratio."""
        return {
            component: self.keep(
                component,
                Ratio.of(ratio.start),
                f"stays at its start ratio {ratio.start:g}, the change over time is lost",
            )
            for component, ratio in self.ratios.items()
        }

    def whole_decay_steps(self) -> int:
        """Steps in which `wsd` decays, whole; a loss if they are not."""
        exact = self.schedule.decay_fraction * self.schedule.total_steps
        steps = max(round(exact), 1)
        if abs(exact - steps) > 1e-9:
            self.losses.append(f"the decay takes {steps} whole steps instead of {exact:g}")
        return steps

    def patterns(self, own: Mapping[str, Sequence[str]], render: Callable[[str], str]) -> dict[str, list[str]]:
        """Component -> patterns of its parameters, for the components that the ratios name.

        Args:
            own: the stack's own patterns, used if the model's names are not given.
            render: a name whose layer numbers are `*` -> a pattern of the stack.

        Raises:
            ExportError: a component that the names or the stack do not have.
        """
        source = own if self.components is None else self.components
        missing = [component for component in self.ratios if not source.get(component)]
        if missing:
            where = f"{self.to} has no names of its own for" if self.components is None else "the model does not have"
            raise ExportError(f"ratios name {', '.join(missing)}, which {where}; it has {', '.join(source) or 'none'}")
        if self.components is None:
            return {component: list(own[component]) for component in self.ratios}
        folded = self.folded()
        return {component: [render(name) for name in folded[component]] for component in self.ratios}

    def folded(self) -> dict[str, list[str]]:
        """Component -> its parameters' names with layer numbers as `*`, where that matches no other component's."""
        assert self.components is not None
        return {component: _folded(component, self.components) for component in self.components}

    def component_decay(self, component: str) -> float:
        """Weight decay of a component's decayed parameters; that of `experts` is also that of `experts/expert.2`."""
        return self.weight_decays.get(component, self.weight_decays.get(component.partition("/")[0], self.weight_decay))

    def parameter_decay(self, component: str, name: str) -> float:
        """Weight decay of a parameter: none for norms and biases."""
        return 0.0 if component == "norm" or name.endswith("bias") else self.component_decay(component)

    def header(self) -> str:
        """Comment lines: what the file is, and what of the schedule is lost."""
        schedule = self.schedule
        lines = [
            f"Relative learning rates for {self.to}, written by rlrs export.",
            f"Base: peak rate {self.lr:g}, {schedule.shape} over {schedule.total_steps} steps, "
            f"{schedule.warmup_steps} of warm-up, final fraction {schedule.alpha:g}.",
            *(
                f"  {component}: {' -> '.join(f'{r:g}' for _, r in ratio.knots)}"
                for component, ratio in self.ratios.items()
            ),
            *([f"Found with: {', '.join(self.found_with)}."] if self.found_with else []),
            "Lost in this form:" if self.losses else "Nothing is lost in this form.",
            *(f"  - {loss}" for loss in self.losses),
        ]
        width = 114
        wrapped = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="    ")]
        return "".join(f"# {line}\n" for line in wrapped)


def make_plan(
    ratios: Ratios,
    to: str,
    schedule: BaseSchedule,
    lr: float,
    weight_decay: float,
    components: Mapping[str, Sequence[str]] | None,
    weight_decays: Mapping[str, float],
    found_with: Sequence[str],
    betas: tuple[float, float] | None,
) -> Plan:
    """Check what every stack needs."""
    for component, decay in weight_decays.items():
        if not 0 <= decay < float("inf"):
            raise ExportError(f"weight decay of {component} should be 0 or more, not {decay!r}")
    if not 0 < lr <= LARGEST_RATE:
        raise ExportError(f"lr should be above 0, at most {LARGEST_RATE:g}, not {lr!r}")
    if not 0 <= weight_decay < float("inf"):
        raise ExportError(f"weight_decay should be 0 or more, not {weight_decay!r}")
    if schedule.warmup_steps >= schedule.total_steps:
        raise ExportError(f"warmup_steps={schedule.warmup_steps} leave nothing of total_steps={schedule.total_steps}")
    if callable(schedule.shape):
        raise ExportError(f"a base curve of your own has no form in {to}; give one of {', '.join(SHAPES)}")
    if schedule.restarts is not None:
        raise ExportError(f"restarts have no form in {to}: export every cycle as a schedule of its own")
    for what, names in (("a ratio's name", ratios), ("a component's name", components or ())):
        for name in names:
            _check_name(name, what)
    for names in (components or {}).values():
        for name in names:
            _check_name(name, "a parameter's name")
    return Plan(to, ratios, schedule, float(lr), float(weight_decay), components, weight_decays, found_with, betas)


def _check_name(name: str, what: str) -> None:
    """Names go into comments, strings and patterns of the file, and may come from a foreign config.json.

    Raises:
        ExportError: one that would end a line, or that is a pattern itself.
    """
    shown = name if len(name) <= 80 else f"{name[:77]}..."
    if not name.isprintable():
        raise ExportError(f"{what} has a character that is not printable, and cannot be written: {shown!r}")
    if "*" in name:
        raise ExportError(f"{what} has a '*', which would match other parameters too: {shown!r}")


def glob(name: str) -> str:
    """The glob of a name whose layer numbers are `*`; brackets and question marks in it stand for themselves."""
    return re.sub(r"[\[?]", r"[\g<0>]", name)


def regex(name: str) -> str:
    """The regular expression of a name whose layer numbers are `*`."""
    return "^" + r"\.".join(r"\d+" if step == "*" else re.escape(step) for step in name.split(".")) + "$"


def strings(values: Iterable[str], indent: int) -> str:
    """Strings for a Python list or tuple, a line each."""
    return "".join(f"{' ' * indent}{string(value)},\n" for value in values)


def string(value: str) -> str:
    """A Python string, raw where that is easier to read; whatever is in it, it is one."""
    raw = "\\" in value and value.isprintable() and '"' not in value and not value.endswith("\\")
    return f'r"{value}"' if raw else repr(value)


def _folded(component: str, components: Mapping[str, Sequence[str]]) -> list[str]:
    """A component's parameter names with layer numbers as `*`, but for those that would then match another's."""
    folded: dict[str, list[str]] = {}
    for name in components[component]:
        star = ".".join("*" if step.isdigit() else step for step in name.split("."))
        folded.setdefault(star, []).append(name)
    foreign = [name for other, names in components.items() if other != component for name in names]
    return [
        part
        for star, names in folded.items()
        for part in (names if any(fnmatchcase(name, f"*{glob(star)}") for name in foreign) else [star])
    ]


def _largest_gap(schedule: BaseSchedule, wanted: Ratio, kept: Ratio) -> tuple[float, int]:
    """Largest relative difference of the kept rate from the wanted one, and its step; the end is among them."""
    ours, theirs = Curve(schedule, wanted.knots), Curve(schedule, kept.knots)
    stride = max(schedule.total_steps // _PROBES, 1)
    gaps = []
    for step in [*range(0, schedule.total_steps, stride), schedule.total_steps]:
        a, b = ours(step), theirs(step)
        gaps.append(((b - a) / a if a else (float("inf") if b else 0.0), step))
    return max(gaps, key=lambda pair: abs(pair[0]))
