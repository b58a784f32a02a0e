"""results.json of schema 1 (rlrs 0.1), and what it says in the records of today."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from rlrs.comparison.decision import decide
from rlrs.records import (
    ArmLosses,
    ArmResult,
    ArmSearch,
    Comparison,
    ComparisonRun,
    Cost,
    Interval,
    Models,
    Recipe,
    RecordError,
    Results,
    RunResult,
    SpeedUp,
    StudyIdentity,
    Trial,
)
from rlrs.records.frozen import Loss, Rate, Value, Whole
from rlrs.settings import Arm

_OTHERS = ("weight_decay", "init_scale", "warmup_fraction", "beta1", "beta2")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class _Trial(_Part):
    number: Whole
    params: dict[str, Value]
    score: Loss | None
    state: Literal["finished", "diverged", "pruned", "failed"]
    steps: Whole
    move: str = ""
    whole: bool = True
    run: str = ""
    reason: str | None = None


class _OldBest(_Part):
    number: Whole
    params: dict[str, Value]
    score: Loss | None


class _Search(_Part):
    budget: int = Field(ge=1, le=10**15)
    trials: Annotated[tuple[_Trial, ...], Field(min_length=1)]
    best: _OldBest
    stopped: str
    sweeps: Whole
    importance: dict[str, Value] = Field(default_factory=dict)


class _Base(_Part):
    lr: Rate
    final_fraction: float = Field(ge=0, le=1)


class _Training(_Part):
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    weight_decay: float = Field(ge=0, le=1e6)
    component_weight_decay: dict[str, float] = Field(default_factory=dict)
    betas: tuple[float, float] = (0.9, 0.95)


class _Config(_Part):
    training: _Training


class _OldStudy(_Part):
    name: str
    config: dict[str, JsonValue]
    config_hash: str


class _Comparison(_Part):
    steps: int = Field(ge=1, le=10**15)
    tokens: Whole
    seeds: tuple[Whole, ...]
    runs: tuple[ComparisonRun, ...]
    losses: dict[Arm, ArmLosses]
    differences: dict[Arm, Interval]
    speed_up: dict[Arm, SpeedUp]


class _Results(_Part):
    study: _OldStudy
    environment: dict[str, Any]
    data: dict[str, Any]
    models: Models
    search: dict[Arm, _Search]
    transfer: dict[Arm, _Search]
    ratios: dict[Arm, dict[str, dict[str, Any]]]
    base: dict[Arm, _Base]
    comparison: _Comparison
    cost: dict[str, Any]


def upgraded(plain: dict[str, Any]) -> Results:
    """A study's results of schema 1 as those of today.

    What that schema did not keep is left out: how a trial that was not whole differed from the others (it is taken for
    a shorter run), tokens and seconds of trials, and what was found beside ratios, base rate and final fraction where
    only the search's best point has it.

    Raises:
        ValidationError, RecordError: it is no such file.
    """
    old = _Results.model_validate(plain)
    training = _Config.model_validate(old.study.config).training
    for part in (old.transfer, old.base, old.ratios):
        if set(part) != set(old.base):
            raise RecordError("damaged: transfer, ratios and base are not of the same arms")
    if "rlrs" not in old.search or "uniform" not in old.base:
        raise RecordError("damaged: lacks the arm rlrs or uniform")
    cost = {stage: spent for stage, spent in old.cost.items() if stage in Cost.model_fields}
    return Results(
        study=StudyIdentity(name=old.study.name, config=old.study.config, config_hash=old.study.config_hash),
        environment=old.environment,
        data=old.data,
        models=old.models,
        arms={arm: _arm(arm, old, training) for arm in old.base},
        comparison=_compared(old.comparison),
        cost=Cost.model_validate(cost),
    )


def _arm(arm: Arm, old: _Results, training: _Training) -> ArmResult:
    # This version's `constant` had no search of its own: it held the start ratios that `rlrs` found.
    searched = old.search.get("rlrs" if arm == "constant" else arm)
    if searched is None:
        raise RecordError(f"damaged: search lacks the arm {arm}")
    best = searched.best.params
    others = {n: v for n, v in best.items() if n in _OTHERS or n.endswith(".weight_decay")}
    defaults = Recipe.model_validate(
        {
            **training.model_dump(),
            "lr": best.get("lr", old.base[arm].lr),
            "target_lr": old.transfer[arm].best.params.get("lr"),
            "final_fraction": old.base[arm].final_fraction,
            "ratios": {component: _knots(ratio) for component, ratio in old.ratios[arm].items()},
        }
    )
    tokens, target_tokens = (m.tokens // m.steps for m in (old.models.proxy, old.models.target))
    return ArmResult(
        arm=arm,
        recipe=defaults.at(others),
        search=None if arm == "constant" else _search(searched, tokens),
        transfer=_search(old.transfer[arm], target_tokens),
    )


def _knots(ratio: dict[str, Any]) -> Any:
    return ratio["knots"] if set(ratio) == {"knots"} else [(0.0, ratio.get("start")), (1.0, ratio.get("end"))]


def _search(old: _Search, tokens_per_step: int) -> ArmSearch:
    return ArmSearch(
        best=old.best.params,
        score=old.best.score,
        reason=old.stopped,
        rounds=old.sweeps,
        trials=tuple(_trial(trial, tokens_per_step) for trial in old.trials),
        budget=old.budget,
        importance=old.importance,
    )


def _trial(old: _Trial, tokens_per_step: int) -> Trial:
    result = RunResult(
        status=old.state,
        steps=old.steps,
        score=old.score,
        valid_loss=None,
        tokens=old.steps * tokens_per_step,
        seconds=0.0,
        reason=old.reason,
    )
    return Trial(
        params=old.params,
        move=old.move,
        steps=None if old.whole else max(1, old.steps),
        number=old.number,
        batch=old.number,
        run=old.run,
        result=result,
    )


def _compared(old: _Comparison) -> Comparison:
    losses: dict[Arm, list[float]] = {
        arm: [math.inf if value is None else value for value in part.per_seed] for arm, part in old.losses.items()
    }
    if any(len(values) != len(old.seeds) for values in losses.values()):
        raise RecordError("damaged: comparison.losses has not one loss for each seed")
    if not {"uniform", "rlrs"} <= set(losses):
        raise RecordError("damaged: comparison.losses lacks the arm rlrs or uniform")
    fields = {name: getattr(old, name) for name in _Comparison.model_fields}
    return Comparison(**fields, decision=decide(losses, old.seeds, old.speed_up))
