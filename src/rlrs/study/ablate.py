"""Runs an ablation of a finished study: its variants on paired seeds, each run once, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlrs import audit
from rlrs.comparison import ablation_sentence, judged_rows, unstable
from rlrs.comparison.measure import final_loss
from rlrs.records import (
    ABLATIONS_FILE,
    Ablation,
    AblationKind,
    AblationRow,
    Ablations,
    read_ablations,
    write_ablations,
)
from rlrs.report import write_ablations_page
from rlrs.search.space import AnySpec
from rlrs.settings import Arm, ConfigError
from rlrs.study.ablations import ABLATIONS, FACTORS, SEEDS, Bench, Variant
from rlrs.study.directory import StudyProgress
from rlrs.study.reopened import FIRST_ABLATION_SEED, FinishedStudy, FurtherCost, cost_of, reopened
from rlrs.study.whole_runs import WholeRuns

Model = Literal["proxy", "target"]


@dataclass(frozen=True)
class AblationPlan:
    """What an ablation will run.

    Args:
        arm: that is looked at.
        seeds: paired.
        variants: on each seed.
        specs: runs by series, place and seed.
        cost: that they will take.
    """

    arm: Arm
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    specs: dict[tuple[str, str, int], AnySpec]
    cost: FurtherCost


def plan_ablation(
    kind: AblationKind,
    folder: Path,
    progress: StudyProgress,
    *,
    model: Model = "proxy",
    arm: Arm | None = None,
    seeds: int | None = None,
    factors: Sequence[float] = (),
) -> AblationPlan:
    """What `ablate` would run; nothing is trained. Arguments and errors are its own."""
    _check(seeds, factors)
    with reopened(folder, progress) as opened:
        return _planned(kind, opened, model, arm, seeds, factors)


def ablate(
    kind: AblationKind,
    folder: Path,
    progress: StudyProgress,
    *,
    model: Model = "proxy",
    arm: Arm | None = None,
    seeds: int | None = None,
    factors: Sequence[float] = (),
    processes: int | None = None,
) -> Ablation:
    """Run an ablation, and keep it in the study's ablations.json with a page of all of them.

    Finished runs are not trained again: one that was killed goes on, and one with more seeds adds to what is there. It
    takes the place of an earlier one of its kind, model and arm.

    Args:
        kind: see `rlrs.study.ablations`.
        folder: run directory of a study that was compared.
        progress: is told what happens.
        model: that is trained.
        arm: whose ratios are looked at; the one that was decided for if None.
        seeds: paired ones, two or more; the kind's own number if None.
        factors: of ratios, base rates, steps or batch sizes, in the place of the kind's own.
        processes: runs side by side; the study's own number if None.

    Raises:
        ConfigError: fewer than two seeds, a factor that is none, a kind that this study's trainer cannot run.
        StudyError, RecordError, EngineError: as their names say.
    """
    _check(seeds, factors)
    with reopened(folder, progress, processes) as opened:
        plan = _planned(kind, opened, model, arm, seeds, factors)
        path = folder / ABLATIONS_FILE
        before = read_ablations(path) if path.exists() else Ablations(study=opened.study.name)
        with opened.kind.engine(folder) as engine:
            done = WholeRuns(folder, engine, progress).train_all("ablate", plan.specs)
            environment = opened.environment(engine)
        losses = {
            (one.series, one.at): [final_loss(done[one.series, one.at, seed][1]) for seed in plan.seeds]
            for one in plan.variants
        }
        found = Ablation(
            kind=kind,
            model=model,
            arm=plan.arm,
            config_hash=opened.results.study.config_hash,
            seeds=plan.seeds,
            rows=tuple(judged_rows([_row(plan, one) for one in plan.variants], losses, plan.seeds)),
            sentence="",
            environment=environment,
        )
        found = found.model_copy(update={"sentence": ablation_sentence(found)})
        write_ablations(path, before.having(found))
        audit.note(folder, "ablation", ablation=kind, model=model, sentence=found.sentence, seeds=list(found.seeds))
        write_ablations_page(folder)
    return found


def _check(seeds: int | None, factors: Sequence[float]) -> None:
    if seeds is not None and seeds < 2:
        raise ConfigError(f"seeds should be 2 or more, not {seeds}: one has no spread")
    for factor in factors:
        if not 0.001 <= factor <= 1000:
            raise ConfigError(f"factors should lie from 0.001 to 1000, not {factor:g}")
    if len(set(factors)) < len(factors):
        raise ConfigError(f"factors={list(factors)} names one twice")


def _planned(
    kind: AblationKind,
    opened: FinishedStudy,
    model: Model,
    arm: Arm | None,
    count: int | None,
    factors: Sequence[float],
) -> AblationPlan:
    if factors and kind not in ("u-plot", *FACTORS):
        raise ConfigError(f"{kind} changes nothing by a factor; {', '.join(('u-plot', *FACTORS))} do")
    bench = Bench(opened, model, arm, factors)
    variants = tuple({(one.series, one.at): one for one in ABLATIONS[kind](bench)}.values())
    seeds = opened.seeds(FIRST_ABLATION_SEED, count or SEEDS.get(kind, 3))
    specs = {(one.series, one.at, seed): one.spec(seed) for one in variants for seed in seeds}
    cost = cost_of(opened, [(one.scale, specs[one.series, one.at, seed]) for one in variants for seed in seeds])
    return AblationPlan(bench.arm, seeds, variants, specs, cost)


def _row(plan: AblationPlan, variant: Variant) -> AblationRow:
    """A row before its losses are in it."""
    runs = [plan.specs[variant.series, variant.at, seed] for seed in plan.seeds]
    unknown = (None,) * len(runs)
    return AblationRow(
        series=variant.series,
        at=variant.at,
        x=variant.x,
        against=variant.against,
        steps=runs[0].steps,
        runs=tuple(run.id for run in runs),
        losses=unknown,
        unstable=unstable(unknown, plan.seeds),
    )
