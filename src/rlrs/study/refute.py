"""A claim of a study's report run again on seeds that nothing in the study has used; what came out is appended."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rlrs import audit
from rlrs.comparison import (
    fresh_seeds_for,
    fresh_test,
    further_seeds,
    named_claim,
    refutation_sentence,
    speed_up,
    unstable,
    upheld,
)
from rlrs.comparison.measure import comparison_run, final_loss
from rlrs.records import (
    REFUTATIONS_FILE,
    FreshTest,
    Refutation,
    Refutations,
    ReportClaim,
    RunResult,
    read_refutations,
    write_refutations,
)
from rlrs.report import rewrite_reports
from rlrs.search.space import AnySpec
from rlrs.settings import Arm, ConfigError
from rlrs.study.directory import StudyProgress
from rlrs.study.reopened import (
    FIRST_REFUTING_SEED,
    FinishedStudy,
    FurtherCost,
    compared,
    cost_of,
    reopened,
)
from rlrs.study.whole_runs import WholeRuns

Key = tuple[Arm, int, float]
"""Arm, seed, share of the full steps."""


@dataclass(frozen=True)
class RefutationPlan:
    """What an attempt will run, declared before it does.

    Args:
        claim: of the report.
        seeds: fresh ones.
        specs: runs by arm, seed and horizon.
        cost: that they will take.
    """

    claim: ReportClaim
    seeds: tuple[int, ...]
    specs: dict[Key, AnySpec]
    cost: FurtherCost


def plan_refutation(
    folder: Path,
    progress: StudyProgress,
    *,
    claim: str | None = None,
    seeds: int | None = None,
) -> RefutationPlan:
    """What `refute` would run; nothing is trained. Arguments and errors are its own."""
    chosen = _claim(folder, claim, seeds)
    with reopened(folder, progress) as opened:
        return _planned(opened, chosen, seeds)


def refute(
    folder: Path,
    progress: StudyProgress,
    *,
    claim: str | None = None,
    seeds: int | None = None,
    processes: int | None = None,
) -> Refutation:
    """Run a claim again on fresh seeds, with the study's own trainer and settings, and append what came out.

    The test is declared in `rlrs.comparison.refuting`. What the study found stays as it was; an attempt that is killed
    goes on by the same call, on the same seeds.

    Args:
        folder: run directory of a study that was compared.
        progress: is told what happens.
        claim: `ARM:CONTROL`, or a control; that of the headline if None.
        seeds: fresh paired seeds, two or more; if None, as many as see an effect of the claimed size.
        processes: runs side by side; the study's own number if None.

    Returns:
        The attempt, as refutations.json has it now.

    Raises:
        RecordError: no such claim, or a damaged file.
        ConfigError: fewer than two seeds.
        StudyError, EngineError: as their names say.
    """
    chosen = _claim(folder, claim, seeds)
    with reopened(folder, progress, processes) as opened:
        plan = _planned(opened, chosen, seeds)
        before = _there(opened)
        with opened.kind.engine(folder) as engine:
            done = WholeRuns(folder, engine, progress).train_all("refute", plan.specs)
            found = _judged(
                opened, plan, {key: result for key, (_, result) in done.items()}, opened.environment(engine)
            )
        write_refutations(
            folder / REFUTATIONS_FILE, before.model_copy(update={"refutations": (*before.refutations, found)})
        )
        audit.note(
            folder,
            "refutation",
            claim=f"{found.claim.arm}:{found.claim.control}",
            upheld=found.upheld,
            sentence=found.sentence,
            seeds=list(found.seeds),
        )
        rewrite_reports(folder)
    return found


def _claim(folder: Path, name: str | None, seeds: int | None) -> ReportClaim:
    """What is to be tried; looked up before anything is begun."""
    if seeds is not None and seeds < 2:
        raise ConfigError(f"seeds should be 2 or more, not {seeds}: one has no spread")
    return named_claim(compared(folder), name)


def _there(opened: FinishedStudy) -> Refutations:
    path = opened.folder / REFUTATIONS_FILE
    return read_refutations(path) if path.exists() else Refutations(study=opened.study.name)


def _planned(opened: FinishedStudy, claim: ReportClaim, count: int | None) -> RefutationPlan:
    comparison, target = opened.results.comparison, opened.study.target
    assert comparison is not None
    used = [seed for attempt in _there(opened).refutations for seed in attempt.seeds]
    seeds = opened.seeds(FIRST_REFUTING_SEED, count or fresh_seeds_for(claim), used)
    shorter = sorted({run.horizon for run in comparison.runs if run.arm == claim.arm and run.horizon < 1})
    lengths = {claim.control: [1.0], claim.arm: [1.0, *(shorter if claim.saved is not None else ())]}
    specs: dict[Key, AnySpec] = {}
    for seed in seeds:
        for arm, shares in lengths.items():
            recipe = opened.results.arms[arm].recipe
            assert recipe.target_lr is not None, "it was compared"
            for share in shares:
                steps = max(1, round(share * target.steps))
                specs[arm, seed, share] = opened.kind.spec(target, recipe, seed, lr=recipe.target_lr, steps=steps)
    return RefutationPlan(claim, seeds, specs, cost_of(opened, [(target, spec) for spec in specs.values()]))


def _judged(opened: FinishedStudy, plan: RefutationPlan, done: dict[Key, RunResult], environment: dict) -> Refutation:
    claim, seeds = plan.claim, plan.seeds
    pair: tuple[Arm, Arm] = (claim.arm, claim.control)
    losses: dict[Arm, list[float]] = {arm: [final_loss(done[arm, seed, 1.0]) for seed in seeds] for arm in pair}
    badly = {arm: unstable(own, seeds) for arm, own in losses.items()}
    loss: FreshTest | None = None
    saved: FreshTest | None = None
    if all(map(math.isfinite, (*losses[claim.arm], *losses[claim.control]))):
        ours, theirs = losses[claim.arm], losses[claim.control]
        loss = fresh_test("loss", claim, [a - b for a, b in zip(ours, theirs, strict=True)])
        if claim.saved is not None:
            runs = [
                {plan.specs[key].steps: final_loss(result) for key, result in done.items() if key[:2] == (claim.arm, s)}
                for s in seeds
            ]
            saved = fresh_test("saved", claim, speed_up(theirs, runs, opened.study.target.steps).per_seed)
    found = upheld(claim, loss, saved, {arm: own.diverged for arm, own in badly.items()})
    attempt = Refutation(
        claim=claim,
        seeds=seeds,
        loss=loss,
        saved=saved,
        upheld=found,
        unstable=badly,
        more_seeds=further_seeds(claim, loss, saved) if found == "open" else None,
        sentence="",
        runs=tuple(comparison_run(*key, plan.specs[key], result) for key, result in done.items()),
        environment=environment,
    )
    return attempt.model_copy(update={"sentence": refutation_sentence(attempt)})
