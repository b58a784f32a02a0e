"""Settings of a search: how, from where, with what it knows before."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from rlrs.messages import shown
from rlrs.settings.base import Count, CountFrom0, Factor, Fraction, Positive, Settings, number

Arm = Literal[
    "uniform",
    "per_optimizer",
    "mup_width",
    "head_only",
    "frozen_embedding",
    "layer_decay",
    "lora_plus",
    "embedding_only",
    "constant",
    "rlrs",
]
"""One side of a comparison, the simplest first, by what it asks of those who use it: see `rlrs.comparison.arms`."""


class FidelityConfig(Settings):
    """Cheap runs that a search is made on, before its best points are trained whole.

    The response surface goes on with whole runs after them.
    """

    steps: Annotated[float, BeforeValidator(number), Field(gt=0, le=1)] = 1.0
    """Steps of a cheap run as a share of the proxy's; it has its own full schedule."""
    width: Count | None = None
    """Model width of a cheap run, a multiple of the head size; the proxy's own if not set."""
    verify: Count = 4
    """Points that are trained whole when the cheap runs end. The start is before: with other methods than the response
    surface it is one of them, and they are two at least."""

    @model_validator(mode="after")
    def _cheaper(self) -> Self:
        if self.steps == 1 and self.width is None:
            raise ValueError(f"its runs are whole ones: should have steps below 1, not {self.steps:g}, or a width")
        return self


class RetestConfig(Settings):
    """The best points tested again on new seeds, so that a point that was lucky on one seed does not win.

    Left out where it would take more than a quarter of the trials.
    """

    points: Annotated[CountFrom0, Field(le=10_000)] = 2
    seeds: Annotated[CountFrom0, Field(le=10_000)] = 2


def _start(value: Any) -> Any:
    if not isinstance(value, str | dict):
        raise ValueError(f"should be a preset, a path to a ratios.yaml, or ratios by component, not {shown(value)}")
    return value


class EarlierTrials(Settings):
    """Finished trials of one arm's earlier search."""

    names: tuple[str, ...]
    """Of the parameters."""
    rows: tuple[tuple[float, ...], ...]
    """Each trial's score, nats per token, and then its parameters; the lowest score first."""


class PriorConfig(Settings):
    """What a search knows before it begins: what `search.prior` names, looked up."""

    lr: Factor | None = None
    """Base peak rate that the ratios go with."""
    final_fraction: Fraction | None = None
    ratios: dict[str, Any] = Field(default_factory=dict)
    """As they stand in a ratios.yaml."""
    trials: dict[Arm, EarlierTrials] = Field(default_factory=dict)
    """Of an earlier study, by arm."""


def _prior(value: Any) -> Any:
    if value is not None and not isinstance(value, str | dict | PriorConfig):
        raise ValueError(f"should be a preset, or a path to a ratios.yaml or a trials.db, not {shown(value)}")
    return value


class StabilityConfig(Settings):
    """The answer of a search tried nearer to the edge of stability, so that a point that is there does not win.

    The answer is trained again at `factor` times its base rate, on fresh seeds. Where one of these runs diverges, or
    ends more than `rise` above the answer's own score, the answer gives way to itself at a base rate smaller by
    `factor`, and so on. The runs are a part of the arm's trials: `seeds`, and `seeds` and one more for each retreat.
    """

    factor: Annotated[float, BeforeValidator(number), Field(gt=1, le=10)] = 1.5
    """Margin to the edge: times the base rate, and so all rates. Chosen here: less than a step of the base-rate grid on
    the target."""
    seeds: Annotated[Count, Field(le=100)] = 2
    """Fresh ones."""
    retreats: Annotated[CountFrom0, Field(le=10)] = 1
    """Most times that the answer gives way."""
    rise: Positive = 0.1
    """Nats per token above the answer's score from which a run counts as unstable. Chosen here: over three times
    what seeds and a rate off by the factor cost where runs are stable, a third of what unstable ones lost."""

    @property
    def runs(self) -> int:
        """Of one arm, at most."""
        return self.seeds + self.retreats * (1 + self.seeds)


class SearchConfig(Settings):
    """How the ratios are found on the proxy. All arms get the same budget."""

    method: str = "response-surface"
    """`response-surface`, `local` (the paper's), `learned` (in a run or a few, no search), or the import path of an
    Optuna sampler, as `optuna.samplers.TPESampler`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of an Optuna sampler given by its import path: its arguments. Of the response surface: `first_move`, a factor. Of
    `learned`: `reach`, `spread`, `bound`, `base` of `rlrs.discovery.Hypergradient`."""
    space: dict[str, Any] = Field(default_factory=dict)
    """What is searched beside base rate, final fraction and all ratios, and what is not: see `rlrs.search.space`."""
    prune: Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)] = 0.0
    """Chance that a trial is ended early which would have beaten the best before it; 0 ends none early."""
    fidelity: FidelityConfig | None = None
    retest: RetestConfig = RetestConfig()
    stability: StabilityConfig | None = None
    """A margin to the edge of stability that the answer has to have; not tried if not set."""
    trials: Annotated[Count, Field(le=1_000_000)] = 48
    """Runs' worth of training steps that each arm may spend on the proxy; it may stop earlier."""
    max_steps: Count | None = None
    """Training steps that each arm may spend on the proxy, besides its number of runs; no limit if not set."""
    max_flops: Positive | None = None
    """The same in FLOPs."""
    max_hours: Positive | None = None
    """The same in hours of training, summed over runs: unlike the others it depends on the machine."""
    start: Annotated[str | dict[str, Any], BeforeValidator(_start)] = "uniform"
    """Ratios the search starts from: a preset, a path to a ratios.yaml, or ratios as they stand in one."""
    prior: Annotated[str | PriorConfig | None, BeforeValidator(_prior)] = None
    """What is known before: a preset or a path to a ratios.yaml (learned ones, say), around which the search begins, or
    to the trials.db of an earlier study, of this size or another, whose trials its surface is fitted to as well."""
    lr: Factor = 4e-3
    """Base peak rate that every arm's search starts from."""
    multipliers: Annotated[tuple[Factor, ...], Field(min_length=1)] = (0.2, 2 / 3, 1.5, 5.0)
    """Each parameter in turn is tried at these multiples of its current value (the paper's)."""
    sweeps: Annotated[Count, Field(le=1_000_000)] = 30
    """Most passes over all parameters."""
    seed: Annotated[CountFrom0, Field(le=2**32 - 1)] = 0
    """Seed of the order of parameters, and of the trials' model and data."""

    @model_validator(mode="after")
    def _whole_runs(self) -> Self:
        if self.method == "learned" and (self.prune or self.fidelity is not None):
            raise ValueError(f"{'prune' if self.prune else 'fidelity'} is not for method=learned, whose runs are whole")
        if self.prior is not None and self.start != "uniform" and isinstance(self.prior, str):
            raise ValueError(f"start={shown(self.start)} and prior={shown(self.prior)}: give one of them")
        if isinstance(self.prior, PriorConfig) and self.prior.trials:
            if self.method != "response-surface":
                raise ValueError(f"prior: earlier trials are for method=response-surface, not {shown(self.method)}")
            if self.fidelity is not None:
                raise ValueError("prior: earlier trials and fidelity do not go together: both are cheap runs of a fit")
        return self
