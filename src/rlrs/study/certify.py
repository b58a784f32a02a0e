"""The stage of a study that climbs a ladder below the target, and the certificate that comes of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlrs.comparison import SIMPLEST_FIRST
from rlrs.records import (
    ArmResult,
    Certificate,
    ModelSize,
    Recipe,
    Results,
    RunResult,
    Spent,
    read_certificate,
    write_certificate,
)
from rlrs.records.certificate import LadderCost, MeasuredRung, RungArm
from rlrs.search import Point, SearchTask, Space, make_method
from rlrs.search.space import AnySpec
from rlrs.settings import Arm, RetestConfig, ScaleConfig
from rlrs.study.directory import StudyError
from rlrs.study.ladder import LadderPlan, PlannedRung, plan_ladder
from rlrs.study.spaces import search_spaces
from rlrs.study.stages import Stages
from rlrs.transfer import LEVEL, Climbed, Forecast, Ladder, checks, forecast, refutations, sentence

FILE = "certificate.json"


def certified(stages: Stages, arms: Mapping[Arm, ArmResult], head: Results) -> Certificate:
    """The certificate of a study: the one that is there, if it is for the same ladder and recipes, or a new one.

    Args:
        stages: of the study, which has a ladder.
        arms: after the search on the proxy.
        head: identity, environment and data of the study.

    Raises:
        StudyError: an arm of which no run on some rung finished.
        RecordError: a certificate that is there is damaged.
    """
    study, path = stages.study, stages.folder / FILE
    plan = plan_ladder(study)
    key = _key(stages, plan, arms)
    if path.exists() and (there := read_certificate(path)).ladder == key:
        return there
    before = not stages.store.has("target/")
    climbed, spent = _climb(stages, plan, arms)
    spaces = search_spaces(study, stages.kind.components())
    proxy = next(rung for rung in plan.rungs if rung.is_proxy)
    ladder = Ladder(
        sizes=[rung.size for rung in plan.rungs],
        climbed=[climbed[rung.name] for rung in plan.rungs],
        target=plan.target.size,
        proxy=proxy.size,
        spaces={arm: spaces[arm] for arm in arms},
        found={arm: _found(result) for arm, result in arms.items()},
        components=stages.kind.components(),
        final_fraction=study.training.final_fraction,
        margin=study.comparison.margin,
        factor=study.transfer.multiplier,
    )
    try:
        ahead = forecast(ladder, study.transfer.mode)
    except ValueError as error:
        raise StudyError(f"ladder: {error}; start from a lower rate than search.lr={study.search.lr:g}") from None
    certificate = _certificate(stages, plan, head, ladder, ahead, key, before, spent)
    write_certificate(path, certificate)
    return certificate


def with_outcome(certificate: Certificate, results: Results, folder: Path) -> Certificate:
    """The certificate with what the comparison on the target measured beside what was predicted; written anew.

    Args:
        certificate: before.
        results: compared.
        folder: of the study.
    """
    assert results.comparison is not None
    found = checks(certificate.arms, certificate.gains, certificate.saved, results)
    certificate = certificate.model_copy(update={"checks": found})
    write_certificate(folder / FILE, certificate)
    return certificate


def at_target(
    stages: Stages, certificate: Certificate | None, arms: Mapping[Arm, ArmResult]
) -> dict[Arm, tuple[ArmResult, float]]:
    """Every arm with its recipe for the target by the study's mode, and where its base rate starts.

    Args:
        stages: of the study.
        certificate: with the laws; None for a study without a ladder.
        arms: after the search on the proxy.
    """
    if stages.study.transfer.mode != "law":
        return stages.carried(arms)
    assert certificate is not None, "settings ask for a ladder with this mode"
    found = {}
    for arm, result in arms.items():
        point = certificate.arms[arm].point
        recipe = result.recipe.at({name: value for name, value in point.items() if name != "lr"})
        found[arm] = result.model_copy(update={"recipe": recipe}), point["lr"]
    return found


@dataclass(frozen=True)
class _Task:
    """One arm's search on one rung."""

    name: str
    rung: PlannedRung
    arm: Arm
    task: SearchTask


def _climb(
    stages: Stages, plan: LadderPlan, arms: Mapping[Arm, ArmResult]
) -> tuple[dict[str, dict[Arm, Climbed]], Spent]:
    """Search all arms on all rungs, then measure what was found on fresh seeds; and what that took."""
    tasks = [_task(stages, plan, rung, arm, found) for rung in plan.rungs for arm, found in arms.items()]
    searches = {task.name: task.task for task in tasks if not task.rung.is_proxy}
    most = dict.fromkeys(searches, plan.trials)
    steps = len(arms) * plan.trials * sum(rung.scale.steps for rung in plan.rungs if not rung.is_proxy)
    tick = stages.begin("ladder", steps, most)
    results = stages.tune(searches, "on a rung of the ladder", tick)
    ladder = stages.study.ladder
    assert ladder is not None
    found: dict[tuple[str, Arm], Any] = {}
    specs: dict[tuple[str, Arm, int], AnySpec] = {}
    for task in tasks:
        own = arms[task.arm].search if task.rung.is_proxy else results[task.name]
        assert own is not None
        found[task.rung.name, task.arm] = own
        for number in range(ladder.seeds):
            seed = stages.study.search.seed + 1 + number
            specs[task.rung.name, task.arm, seed] = replace(task.task.spec(own.best), seed=seed)
    done = stages.train_all("measuring the ladder", specs)
    losses: dict[tuple[str, Arm], list[float]] = {}
    for (rung, arm, _), (_, result) in done.items():
        loss = math.inf if result.status != "finished" or result.valid_loss is None else result.valid_loss
        losses.setdefault((rung, arm), []).append(loss)
    climbed: dict[str, dict[Arm, Climbed]] = {rung.name: {} for rung in plan.rungs}
    for (rung, arm), own in found.items():
        climbed[rung][arm] = Climbed(own.trials, own.best, tuple(losses[rung, arm]))
    rungs = {rung.name: rung for rung in plan.rungs}
    ended = [
        (rungs[name.split("/")[2]], searches[name].spec(trial.params), trial.result)
        for name, result in results.items()
        for trial in result.trials
        if trial.result is not None
    ]
    ended += [(rungs[rung], spec, result) for (rung, _, _), (spec, result) in done.items()]
    return climbed, _spent(stages, ended)


def _spent(stages: Stages, ended: Iterable[tuple[PlannedRung, AnySpec, RunResult]]) -> Spent:
    """What runs of several sizes took together."""
    sizes: dict[str, ModelSize] = {}
    steps, tokens, flops, seconds = 0, 0, 0.0, 0.0
    for rung, spec, result in ended:
        size = sizes.setdefault(rung.name, stages.kind.size(rung.scale))
        steps += result.steps
        tokens += result.steps * (size.tokens // size.steps)
        flops += stages.kind.flops(spec, result.steps)
        seconds += result.seconds
    return Spent(steps=steps, tokens=tokens, flops=flops or None, seconds=seconds or None)


def _task(stages: Stages, plan: LadderPlan, rung: PlannedRung, arm: Arm, found: ArmResult) -> _Task:
    """An arm's search on a rung, from what its search on the proxy found: whole runs alone, all on one seed."""
    study = stages.study
    whole = scaled_run(stages, rung.scale, found)
    own = search_spaces(study, stages.kind.components())[arm]
    start = _found(found)
    space = Space([replace(parameter, start=start.get(parameter.name, parameter.start)) for parameter in own])
    settings = study.search.model_copy(
        update={
            **{"trials": plan.trials, "fidelity": None, "prune": 0.0, "retest": RetestConfig(points=0)},
            "stability": None,
            **{"max_steps": None, "max_flops": None, "max_hours": None},
        }
    )

    def spec(point: Point) -> AnySpec:
        return stages.at_point(whole, rung.scale, found.recipe, point)

    made = make_method(space, settings, steps=whole.steps, window=whole.training.score_steps)
    identity = {**stages.identity(space.start()), "rung": rung.scale.model_dump(mode="json")}
    name = f"ladder/{arm}/{rung.name}/{_digest(rung.scale, found.recipe)}"
    task = SearchTask(made, spec, identity=identity, limits={"trials": plan.trials})
    return _Task(name, rung, arm, task)


def scaled_run(stages: Stages, scale: ScaleConfig, found: ArmResult) -> AnySpec:
    """A run of a rung with what an arm found, scored over the same share of its steps as the proxy."""
    study = stages.study
    run = stages.kind.spec(scale, found.recipe, study.search.seed, lr=found.recipe.lr)
    window = max(1, round(study.training.score_steps * scale.steps / study.proxy.steps))
    return replace(run, training=run.training.model_copy(update={"score_steps": window}))


def _found(arm: ArmResult) -> dict[str, float]:
    assert arm.search is not None, "every arm of a study that was run has one"
    return dict(arm.search.best)


def _digest(scale: ScaleConfig, recipe: Recipe) -> str:
    plain = json.dumps([scale.model_dump(mode="json"), recipe.digest], sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()[:8]


def _key(stages: Stages, plan: LadderPlan, arms: Mapping[Arm, ArmResult]) -> str:
    study = stages.study
    assert study.ladder is not None
    plain = {
        "rungs": [rung.scale.model_dump(mode="json") for rung in (*plan.rungs, plan.target)],
        "trials": plan.trials,
        "seeds": study.ladder.seeds,
        "mode": study.transfer.mode,
        "identity": stages.identity({}),
        "recipes": {arm: found.recipe.digest for arm, found in arms.items()},
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:12]


def _certificate(
    stages: Stages,
    plan: LadderPlan,
    head: Results,
    ladder: Ladder,
    ahead: Forecast,
    key: str,
    before: bool,
    spent: Spent,
) -> Certificate:
    study = stages.study
    assert study.ladder is not None
    first = study.search.seed + 1
    target = plan.target
    return Certificate(
        study=head.study,
        ladder=key,
        environment=head.environment,
        data=head.data,
        mode=study.transfer.mode,
        level=LEVEL,
        before_target=before,
        cost=LadderCost(share=plan.share, allowed=study.ladder.share, steps=spent.steps, spent=spent),
        seeds=tuple(range(first, first + study.ladder.seeds)),
        rungs=tuple(_measured(stages, *rung) for rung in zip(plan.rungs, ladder.climbed, strict=True)),
        axes=ahead.axes.names,
        left_out={str(axis): reason for axis, reason in ahead.axes.left_out.items()},
        target={
            "width": target.size.width,
            "depth": target.size.depth,
            "steps": float(target.scale.steps),
            "tokens": target.size.tokens,
        },
        arms=dict(ahead.arms),
        gains=dict(ahead.gains),
        saved=dict(ahead.saved),
        sentence=sentence(ahead.gains, ahead.saved, SIMPLEST_FIRST),
        notes=ahead.notes,
        refuted_by=refutations(ahead.arms, ahead.gains, LEVEL),
    )


def _measured(stages: Stages, rung: PlannedRung, climbed: Mapping[Arm, Climbed]) -> MeasuredRung:
    return MeasuredRung(
        name=rung.name,
        is_proxy=rung.is_proxy,
        shape=dict(stages.kind.size(rung.scale).shape),
        width=rung.size.width,
        depth=rung.size.depth,
        steps=rung.scale.steps,
        tokens=rung.size.tokens,
        arms={
            arm: RungArm(
                trials=len(own.trials),
                best=dict(own.best),
                losses=tuple(loss if math.isfinite(loss) else None for loss in own.losses),
            )
            for arm, own in climbed.items()
        },
    )
