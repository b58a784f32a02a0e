"""What a run of the user's own trainer is asked to be, and the files by which it learns that and answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pydantic import Field, JsonValue

from rlrs.ratios import Ratios
from rlrs.records import Pruning, RunResult
from rlrs.records.frozen import Record
from rlrs.schedules import BaseSchedule, warmup_steps
from rlrs.settings import TrainerConfig, TrainingConfig, TransformersConfig

RUN_VARIABLE = "RLRS_RUN"
"""The environment variable with the path of a run's `RUN_FILE`."""
RUN_FILE = "run.json"
_READY_MADE = frozenset({"transformers", "data"})
_NO_RESULT = frozenset({"model", "components", "width", "depth", "verify", "transformers"})
"""Of the trainer's settings: what decides no number, and what the id has apart."""
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"


class RunError(ValueError):
    """A run that cannot be what it was asked to be; one line that says why."""


class AnyRun(Protocol):
    """What a search, an engine and a comparison need to know of a run, whoever trains it."""

    @property
    def id(self) -> str:
        """Hash of everything that decides its numbers."""
        ...

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        ...

    @property
    def seed(self) -> int:
        """Of weights and data order."""
        ...

    @property
    def lr(self) -> float:
        """Base peak rate."""
        ...


class AskedRun(Record):
    """What a run is asked to be, as `run.json` has it."""

    id: str
    steps: int = Field(ge=1, le=10**15)
    """Optimizer steps, warm-up included."""
    warmup_steps: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    """Of weights and data order."""
    lr: float = Field(gt=0)
    """Base peak rate."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """Base rate at the end over its peak; 1 for `constant`."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    ratios: dict[str, tuple[tuple[float, float], ...]] = Field(default_factory=dict)
    """Component -> knots (progress, ratio), as `Ratio.knots`; components not named follow the base rate."""
    weight_decay: float = Field(default=0.1, ge=0)
    component_weight_decay: dict[str, float] = Field(default_factory=dict)
    """Of components that have their own."""
    betas: tuple[float, float] = (0.9, 0.95)
    muon_rate: float = Field(default=1.0, gt=0)
    """Base rate of what Muon trains over `lr`; 1 where there is one optimizer."""
    args: dict[str, JsonValue] = Field(default_factory=dict)
    """The study's own variables of this size: `set` in study.yaml."""
    score_steps: int = Field(default=100, ge=1)
    """Last steps over which the score, a training loss, is averaged."""
    loss_limit: float | None = None
    """A training loss above it ends the run as diverged."""
    tokens_per_step: int = Field(default=0, ge=0)
    """0 where it is not known."""
    validate_at_end: bool = True
    """Whether a validation loss after the last step is wanted."""
    prune: Pruning | None = None
    """When to end the run early."""
    verify: int = Field(default=0, ge=0)
    """Optimizer steps that are verified (`rlrs.verify`), after which the run ends; 0 trains it."""
    transformers: TransformersConfig | None = None
    """Of a run that transformers' trainer makes: how."""
    data: str | None = None
    """Of such a run: folder of the study's data."""
    given: tuple[str, ...] = ()
    """What of all this the command line has."""

    def relative_rates(self) -> Ratios:
        """The ratios as the rest of the library takes them."""
        return Ratios({component: list(knots) for component, knots in self.ratios.items()})

    def base_schedule(self) -> BaseSchedule:
        """The base rate over its peak, step by step."""
        return BaseSchedule(
            total_steps=self.steps,
            warmup_steps=self.warmup_steps,
            final_fraction=None if self.schedule == "constant" else self.final_fraction,
            shape=self.schedule,
        )


class ReportedResult(RunResult):
    """How a run of the user's trainer ended, as `result.json` has it."""

    id: str
    """Of the run."""
    rates: dict[str, float] = Field(default_factory=dict)
    """Component -> highest rate that its parameter groups were seen with."""

    def plain_result(self) -> RunResult:
        """What searches and comparisons take of it."""
        return RunResult(**{name: getattr(self, name) for name in RunResult.model_fields})


@dataclass(frozen=True, kw_only=True)
class OwnRun:
    """One run of the user's own trainer: everything that decides its numbers, as far as a study knows.

    Args:
        trainer: of the study.
        args: what makes the model's size: `set` in study.yaml.
        training: of the study; what `TrainerConfig` lets be set of it.
        steps: optimizer steps T.
        seed: of weights and data order, 0 or more.
        lr: base peak rate.
        final_fraction: base rate at the end over its peak.
        ratios: component -> knots (progress, ratio), as `Ratio.knots`.
        tokens: of a step; 0 where that is not known.
        data: folder of the study's data, for a ready-made trainer.
        data_hash: of what is in it.
    """

    trainer: TrainerConfig
    args: Mapping[str, Any]
    training: TrainingConfig
    steps: int
    seed: int
    lr: float
    final_fraction: float
    ratios: Mapping[str, Any]
    tokens: int = 0
    data: str | None = None
    data_hash: str = ""

    @property
    def id(self) -> str:
        """12 hex digits: the hash of all fields that decide numbers."""
        transformers, asked = self.trainer.transformers, self.asked("")
        idle = {"muon_rate"} if asked.muon_rate == 1 else set()
        plain = {
            "trainer": self.trainer.model_dump(mode="json", exclude=set(_NO_RESULT)),
            **asked.model_dump(mode="json", exclude={"id", "tokens_per_step", "verify", *_READY_MADE, *idle}),
            **({"transformers": transformers.model_dump(mode="json"), "data": self.data_hash} if transformers else {}),
        }
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]

    def asked(
        self, id: str | None = None, *, validate: bool = True, prune: Pruning | None = None, verify: int = 0
    ) -> AskedRun:
        """What the run is asked to be, as its file has it.

        Args:
            id: of the run; its own if None.
            validate: whether a validation loss is wanted.
            prune: when to end it early.
            verify: steps that are verified, with which the run ends; 0 trains it.
        """
        training = self.training
        return AskedRun(
            id=self.id if id is None else id,
            steps=self.steps,
            warmup_steps=warmup_steps(training.warmup_fraction, self.steps),
            seed=self.seed,
            lr=self.lr,
            final_fraction=self.final_fraction,
            schedule=training.schedule,
            ratios={component: tuple(map(tuple, knots)) for component, knots in self.ratios.items()},
            weight_decay=training.weight_decay,
            component_weight_decay=training.component_weight_decay,
            betas=training.betas,
            muon_rate=training.muon_rate if training.optimizer == "muon" else 1.0,
            args=dict(self.args),
            score_steps=training.score_steps,
            loss_limit=training.loss_limit,
            tokens_per_step=self.tokens,
            validate_at_end=validate,
            prune=prune,
            verify=verify,
            transformers=self.trainer.transformers,
            data=self.data,
            given=tuple(dict.fromkeys(self.trainer.placeholders())),
        )

    def placeholders(self, folder: str) -> dict[str, str]:
        """What the names in braces of a command stand for.

        Args:
            folder: of the run.
        """
        asked = self.asked()
        beta1, beta2 = asked.betas
        named: dict[str, Any] = {
            **asked.args,
            **{name: getattr(asked, name) for name in ("lr", "final_fraction", "warmup_steps", "steps", "seed")},
            **{"weight_decay": asked.weight_decay, "beta1": beta1, "beta2": beta2, "muon_rate": asked.muon_rate},
            **{"folder": folder, "run": f"{folder}/{RUN_FILE}", "ratios": f"{folder}/ratios.yaml"},
        }
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}

    def command(self, folder: str) -> list[str]:
        """The command line of the run, argument by argument."""
        values, ratios = self.placeholders(folder), self.asked().relative_rates()

        class Values(dict[str, Any]):
            def __missing__(self, component: str) -> Any:
                ratio = ratios.get(component)
                return _Ends(ratio.start if ratio else 1.0, ratio.end if ratio else 1.0)

        return [word.format_map(Values(values)) for word in self.trainer.words()]


@dataclass(frozen=True)
class _Ends:
    """What `{embedding.start}` and `{embedding.end}` read."""

    start: float
    end: float
