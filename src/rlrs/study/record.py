"""What a study leaves: the parts of results.json that are no search's, and ratios.yaml."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlrs.comparison import read_results
from rlrs.messages import printable
from rlrs.ratios import Ratios, RatiosError
from rlrs.records import (
    ArmResult,
    ArmSearch,
    Certificate,
    Comparison,
    Cost,
    Models,
    ModelSize,
    Provenance,
    Recipe,
    RecordError,
    Results,
    SearchResult,
    Spent,
)
from rlrs.records.provenance import (
    DecisionSummary,
    FoundOn,
    Horizon,
    LearnedSummary,
    SearchSummary,
    TargetSummary,
)
from rlrs.records.results import StudyIdentity
from rlrs.search import StorageError
from rlrs.search.earlier import earlier_trials
from rlrs.settings import Arm, ScaleConfig, StudyConfig
from rlrs.study import noted

log = logging.getLogger("rlrs.study")


def finished(folder: Path, identity: StudyIdentity, data: Mapping[str, Any]) -> Results | None:
    """What a study that has ended in this folder found; None if it has not, or its files are not as it left them.

    Args:
        folder: the study's run directory.
        identity: of the study that is asked for.
        data: what is known of its data.
    """
    try:
        results = read_results(folder / "results.json")
    except (OSError, RecordError):
        return None  # what is missing or damaged is made anew
    same = results.study.config_hash == identity.config_hash and results.data.get("hash") == data.get("hash")
    # It changes no result, but the page reckons by it.
    same = same and results.study.config.get("machine") == identity.config.get("machine")
    if not same or results.comparison is None or not noted.ended_with(folder):
        return None
    # A run whose files are gone, which the page is made from, is trained again.
    whole = all((folder / "runs" / run.id / "metrics.jsonl").exists() for run in results.comparison.runs)
    return results if whole else None


def looked_at(folder: Path, seeds: int) -> int | None:
    """Seeds after which a fixed comparison was looked at before, where there are more now; from results.json.

    Args:
        folder: the study's run directory.
        seeds: that are compared now.
    """
    try:
        before = read_results(folder / "results.json").comparison
    except (OSError, RecordError):
        return None
    if before is None or before.stopping is not None:
        return None
    return before.looked_at or (len(before.seeds) if len(before.seeds) < seeds else None)


def warn_of_lost_trials(folder: Path) -> None:
    """Say in one line that the trials of a study that has ended are gone or damaged; its results stand without them."""
    try:
        if earlier_trials(folder / "trials.db"):
            return
        said = f"{printable(str(folder / 'trials.db'))}: has no trials"
    except StorageError as error:
        said = str(error)
    log.warning("%s; what the study found stands, but to extend it would search anew", said)


def page_is_newer(folder: Path) -> bool:
    """Whether there is a page, written after results.json."""
    page, results = folder / "report.html", folder / "results.json"
    return page.exists() and page.stat().st_size > 0 and page.stat().st_mtime_ns >= results.stat().st_mtime_ns


def cost(
    models: Models, arms: Mapping[Arm, ArmResult], comparison: Comparison, certificate: Certificate | None = None
) -> Cost:
    """Training steps and tokens that each stage took, runs that were killed half-way not counted."""

    def spent(steps: int, size: ModelSize) -> Spent:
        return Spent(steps=steps, tokens=steps * (size.tokens // size.steps))

    return Cost(
        search=spent(sum(arm.search.steps for arm in arms.values() if arm.search), models.proxy),
        transfer=spent(sum(arm.transfer.steps for arm in arms.values() if arm.transfer), models.target),
        comparison=spent(sum(run.steps for run in comparison.runs), models.target),
        ladder=None if certificate is None else certificate.cost.spent,
    )


def save_best_so_far(
    study: StudyConfig,
    identity: StudyIdentity,
    data: Mapping[str, Any],
    so_far: Mapping[str, SearchResult],
    folder: Path,
    made_out: Callable[[Recipe], Recipe],
) -> None:
    """Write ratios.yaml with the best that an unfinished search has tried, marked so; not over a finished one's.

    `made_out` as for `save_ratios`.
    """
    found, path = so_far.get("proxy/rlrs"), folder / "ratios.yaml"
    if found is None or found.score is None or _keeps(path, lambda provenance: "unfinished_search" not in provenance):
        return
    trials = found.trials
    recipe = Recipe.from_settings(study.training, study.search.lr).at(found.best)
    steps = sum(trial.result.steps for trial in trials if trial.result is not None)
    provenance = Provenance(
        unfinished_search=f"stopped after {len(trials)} of at most {study.search.trials} runs; "
        "the same command goes on from there",
        study=identity.name,
        study_hash=identity.config_hash,
        data=_data(data),
        base=recipe.base_settings(),
        made_of=recipe.factors or None,
        search=SearchSummary(runs=len(trials), steps=steps, score=found.score),
    )
    Ratios(made_out(recipe).ratios, provenance.to_plain()).save(path)


def save_ratios(
    study: StudyConfig, results: Results, folder: Path, made_out: Callable[[Recipe], Recipe] = lambda recipe: recipe
) -> None:
    """Write ratios.yaml with the recipe of the arm that was decided for; before a comparison, of `rlrs`.

    `made_out` makes a recipe's factors ratios of the target's layers and adapters.

    Nothing in it depends on the clock, so that a study run again gives the same bytes. What an earlier run of the same
    study decided stays until it is decided again.
    """
    path, winner, comparison = folder / "ratios.yaml", results.winner, results.comparison
    if comparison is None and _keeps(
        path, lambda old: "decision" in old and old.get("study_hash") == results.study.config_hash
    ):
        return
    search, recipe = winner.search, made_out(winner.recipe)
    assert search is not None, "every arm of a study that was run has one"
    proxy, environment = results.models.proxy, results.environment
    batch_size = round(search.best["batch_size"]) if "batch_size" in search.best else proxy.batch_size
    steps = (
        proxy.steps if proxy.batch_size is None or batch_size is None else proxy.steps * proxy.batch_size / batch_size
    )
    provenance = Provenance(
        study=study.name,
        study_hash=results.study.config_hash,
        arm=winner.arm,
        decision=None
        if comparison is None
        else DecisionSummary(
            winner=comparison.decision.winner,
            sentence=comparison.decision.sentence,
            notes=(
                *((comparison.stopping.sentence,) if comparison.stopping is not None else ()),
                *comparison.decision.notes,
            ),
        ),
        found_on=FoundOn(model=_shape(study.proxy), parameters=dict(proxy.parameters or {})),
        data=_data(results.data),
        horizon=Horizon(steps=max(1, round(steps)), batch_size=batch_size, tokens=proxy.tokens),
        base=recipe.base_settings(),
        made_of=winner.recipe.factors or None,
        search=SearchSummary(
            method=study.search.method,
            start=study.search.start,
            budget_runs=search.budget,
            runs=len(search.trials),
            steps=search.steps,
            score=search.score,
        ),
        learned=_learned(search),
        code={key: environment[key] for key in ("rlrs", "commit", "torch")},
        target=None if comparison is None else _target(study, results, comparison),
        carried_by=None if comparison is None or study.transfer.mode == "unchanged" else study.transfer.mode,
        rlrs_ratios=None if winner.arm == "rlrs" else _plain(made_out(results.arms["rlrs"].recipe)),
    )
    Ratios(recipe.ratios, provenance.to_plain()).save(path)


def _learned(search: ArmSearch) -> LearnedSummary | None:
    """Of the run that learned what the search ended with."""
    for trial in search.trials:
        found = trial.result.learned if trial.result is not None else None
        if found is None:
            continue
        starts = {f"{component}.start": knots[0][1] for component, knots in found.ratios.items()}
        if all(math.isclose(search.best.get(name, 0.0), value, rel_tol=1e-4) for name, value in starts.items()):
            return LearnedSummary(deviations=found.deviations, residuals=found.residuals)
    return None


def _target(study: StudyConfig, results: Results, comparison: Comparison) -> TargetSummary:
    rate = results.winner.recipe.target_lr
    assert rate is not None, "an arm that was compared was transferred"
    return TargetSummary(
        model=_shape(study.target),
        parameters=dict(results.models.target.parameters or {}),
        lr=rate,
        steps=study.target.steps,
        tokens=results.models.target.tokens or None,
        final_losses={arm: losses.mean for arm, losses in comparison.losses.items()},
    )


def _shape(scale: ScaleConfig) -> dict[str, Any]:
    return scale.model.model_dump(mode="json") if scale.set is None else dict(scale.set)


def _plain(recipe: Recipe) -> dict[str, Any]:
    return {component: ratio.to_plain() for component, ratio in recipe.relative_rates().items()}


def _data(summary: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: summary[key] for key in ("source", "hash", "vocab_size") if key in summary}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in known.items()}


def _keeps(path: Path, wanted: Any) -> bool:
    """Whether a ratios.yaml is there, can be read, and its provenance is one that is wanted."""
    try:
        return path.exists() and wanted(Ratios.load(path).provenance)
    except RatiosError:
        return False  # damaged: it is written anew
