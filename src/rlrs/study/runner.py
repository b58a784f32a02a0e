"""A study from settings to report: data, search on the proxy, transfer to the target, comparison, report.

Every stage can be killed at any moment: the same call goes on from what is on disk and ends with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from rlrs.comparison import read_results
from rlrs.data import TokenData
from rlrs.environment import environment
from rlrs.inspection import meta_model
from rlrs.records import ArmResult, Certificate, Models, Recipe, Results, RunResult, StudyIdentity, write_results
from rlrs.report import write_certificate_page, write_report
from rlrs.search import Interrupted, TrialStore
from rlrs.settings import CHANGES_NO_RESULT, Arm, ConfigError, StudyConfig, fingerprint, kept
from rlrs.study import noted
from rlrs.study.certify import at_target, certified, with_outcome
from rlrs.study.directory import StudyError, StudyProgress, claim, held, prepared
from rlrs.study.dtype import settled
from rlrs.study.kinds import ReferenceRuns, RunKind
from rlrs.study.preparing import own_runs
from rlrs.study.rates_check import check_rates
from rlrs.study.record import cost, finished, page_is_newer, save_best_so_far, save_ratios, warn_of_lost_trials
from rlrs.study.resolve import check_places, resolve, usable
from rlrs.study.stages import Stages
from rlrs.training import RunSpec, StopFlag, World, train


def run(study: StudyConfig, folder: Path, progress: StudyProgress, *, until: str = "report") -> Results:
    """Run a study, or go on with it, up to and including a stage; its results, as in results.json.

    Of a study that has ended these are read, and nothing is begun: `progress` is told of no stage.

    Args:
        study: settings.
        folder: the study's run directory; made if missing.
        progress: is told what happens.
        until: last stage: `search`, `certificate` (of a study with a ladder), `comparison` or `report`.

    Raises:
        StudyError: the folder is another study's, or another process is at work in it.
        ConfigError, StorageError, CheckpointError, EngineError: as their names say; one line each.
        Interrupted: Ctrl-C in a search; ratios.yaml then has the best so far, marked so.
    """
    study = resolve(study)
    check_places(study)
    if until == "certificate" and study.ladder is None:
        raise ConfigError("ladder is missing: a certificate needs ladder.sizes and ladder.horizons")
    with kind_of_runs(study, folder, progress) as (study, kind):
        identity = StudyIdentity(
            name=study.name,
            config=kept(study, {}),
            config_hash=fingerprint(study, without=CHANGES_NO_RESULT),
        )
        if (ended := finished(folder, identity, kind.data)) is not None:
            if study.storage is None:
                warn_of_lost_trials(folder)
            if until == "report" and not page_is_newer(folder):
                _report(folder, progress)
            return ended
        with kind.engine(folder) as engine:
            used = {"dtype": study.training.dtype, "engine": study.engine.kind, "processes": engine.slots}
            made_with = {**environment(), **used}
            models = Models(proxy=kind.size(study.proxy), target=kind.size(study.target))
            head = partial(Results, study=identity, environment=made_with, data=kind.data, models=models)
            noted.begun(folder, study, identity, made_with, kind.data)
            stages = Stages(study, folder, kind, engine, _store(study, folder), progress)
            made_out = partial(kind.made_out, study.target)
            with noted.failures(folder):
                try:
                    arms = stages.search()
                except Interrupted as stopped:
                    save_best_so_far(study, identity, kind.data, stopped.so_far, folder, made_out)
                    raise
                save_ratios(study, results := head(arms=arms), folder, made_out)
                noted.searched(folder, results, last=until == "search")
                if until == "search":
                    return results
                certificate = None if study.ladder is None else _certified(stages, arms, results)
                if until == "certificate":
                    return results
                arms = stages.transfer(at_target(stages, certificate, arms))
                comparison = stages.comparison(arms)
        results = head(arms=arms, comparison=comparison, cost=cost(models, arms, comparison, certificate))
        _keep(study, results, certificate, folder, made_out)
        if until == "report":
            _report(folder, progress)
        return results


def _keep(
    study: StudyConfig,
    results: Results,
    certificate: Certificate | None,
    folder: Path,
    made_out: Callable[[Recipe], Recipe],
) -> None:
    """Write down what a study has found that was compared."""
    save_ratios(study, results, folder, made_out)
    write_results(folder / "results.json", results)
    if certificate is not None:
        with_outcome(certificate, results, folder)
        write_certificate_page(folder)
    noted.decided(folder, results)


def _certified(stages: Stages, arms: Mapping[Arm, ArmResult], results: Results) -> Certificate:
    """The certificate of a study, written with its page; with what came out, where the target was compared before."""
    folder = stages.folder
    certificate = certified(stages, arms, results)
    if (path := folder / "results.json").exists():
        known = read_results(path)
        if known.comparison is not None and known.study.config_hash == results.study.config_hash:
            certificate = with_outcome(certificate, known, folder)
    noted.certified(folder, certificate)
    write_certificate_page(folder)
    return certificate


def _report(folder: Path, progress: StudyProgress) -> None:
    progress.stage("report", 0)
    write_report(folder)


@contextmanager
def kind_of_runs(study: StudyConfig, folder: Path, progress: StudyProgress) -> Iterator[tuple[StudyConfig, RunKind]]:
    """Hold the run directory; the study as it is trained, and its kind of runs.

    Args:
        study: settings, resolved.
        folder: the run directory.
        progress: is told what happens.

    Raises:
        StudyError: the folder is another study's, or another process is at work in it; rates that are not real.
    """
    if study.trainer is not None:
        with held(study, folder):
            kind = own_runs(study, folder, progress)
            # Before the folder is this study's: what is wrong may be put right in study.yaml.
            check_rates(study, kind, folder, progress)
            claim(study, folder)
            yield study, kind
        return
    with prepared(study, folder, progress) as data:
        settings = settled(study, folder, data)
        yield settings, ReferenceRuns(settings, data)


def _store(study: StudyConfig, folder: Path) -> TrialStore:
    if study.storage is None:
        return TrialStore(folder / "trials.db")
    return TrialStore(study.storage, study=study.name)


def train_one(
    study: StudyConfig,
    folder: Path,
    progress: StudyProgress,
    *,
    model: Literal["proxy", "target"],
    recipe: Recipe,
    lr: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    world: World | None = None,
    stop: StopFlag | None = None,
) -> tuple[RunSpec, RunResult]:
    """Train one run of a study's model, with checkpoints in `folder/runs/ID`; resumes.

    Args:
        study: settings; data and training as there.
        folder: the study's run directory.
        progress: is told what happens.
        model: which of the two models.
        recipe: relative rates and what they were found with, all of which the run has; see `Recipe.from_ratios`.
        lr: base peak rate. If None, the recipe's: on the target, if `model` is that and it was tuned there.
        steps: optimizer steps; the study's if None.
        seed: of weights and data order.
        world: the ranks that train together, each of which calls this; this process alone if None.
        stop: looked at after every step; see `rlrs.training.train`.

    Raises:
        StudyError: a rate or a ratio that cannot be used, besides those of `run`.
        Stopped: `stop` was set, and the run is saved.
    """
    study = resolve(study)
    if study.trainer is not None:
        raise StudyError("this study has a trainer of its own: start that, with the ratios.yaml that the study found")
    scale = study.proxy if model == "proxy" else study.target
    with _prepared_by_first(study, folder, progress, world or World()) as data:
        study = (world or World()).from_first(partial(settled, study, folder, data))
        usable(recipe.relative_rates(), meta_model(scale.model, data.vocab_size), f"the {model}")
        rate = (recipe.target_lr if model == "target" else None) or recipe.lr
        try:
            runs = ReferenceRuns(study, data)
            spec = runs.spec(scale, recipe, seed, lr=rate if lr is None else lr, steps=steps)
            spec = replace(spec, guard=study.guard)
        except ValueError as error:
            raise StudyError(str(error)) from None
        progress.stage("training", spec.steps)
        where = folder / "runs" / spec.id
        tick = partial(_tick, progress)
        with noted.one_run(where, spec, recipe.relative_rates(), first=world is None or world.rank == 0) as ended:
            result = train(spec, data, where, progress=tick, world=world, stop=stop)
            ended(result)
        return spec, result


def _tick(progress: StudyProgress, step: int, loss: float) -> None:
    progress.tick(step)


@contextmanager
def _prepared_by_first(study: StudyConfig, folder: Path, progress: StudyProgress, world: World) -> Iterator[TokenData]:
    """`prepared` by rank 0, which holds the directory for all ranks; the others open its data."""
    with ExitStack() as stack:
        world.from_first(lambda: stack.enter_context(prepared(study, folder, progress)) and None)
        yield TokenData.load(folder / "data")
