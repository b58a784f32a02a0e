"""A study from settings to report: data, search on the proxy, transfer to the target, comparison, report.

Every stage can be killed at any moment: the same call goes on from what is on disk and ends with the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rlrs.components import partition
from rlrs.data import TokenData
from rlrs.environment import environment
from rlrs.files import write_atomic
from rlrs.inspection import meta_model
from rlrs.ratios import Ratios
from rlrs.records import RunResult
from rlrs.report import write_report
from rlrs.search import Engine, Interrupted, Processes, Ray, Trials
from rlrs.settings import CHANGES_NO_RESULT, StudyConfig, fingerprint
from rlrs.study.directory import StudyError, StudyProgress, prepared
from rlrs.study.dtype import settled
from rlrs.study.record import cost, histories, model_section, save_best_so_far, save_ratios
from rlrs.study.stages import Arms, Stages, run_spec
from rlrs.training import RunSpec, StopFlag, World, train

RESULTS_SCHEMA = 1
"""Version of results.json, which `rlrs.report` reads."""


def run(study: StudyConfig, folder: Path, progress: StudyProgress, *, until: str = "report") -> dict[str, Any]:
    """Run a study, or go on with it, up to and including a stage; its results, as in results.json.

    Args:
        study: settings.
        folder: the study's run directory; made if missing.
        progress: is told what happens.
        until: last stage: `search`, `comparison` or `report`.

    Raises:
        StudyError: the folder is another study's, or another process is at work in it.
        ConfigError, StorageError, CheckpointError, EngineError: as their names say; one line each.
        Interrupted: Ctrl-C in a search; ratios.yaml then has the best so far, marked so.
    """
    with prepared(study, folder, progress) as data:
        results: dict[str, Any] = {
            "schema": RESULTS_SCHEMA,
            "study": {
                "name": study.name,
                "config": study.model_dump(mode="json"),
                "config_hash": fingerprint(study, without=CHANGES_NO_RESULT),
            },
            "environment": environment(),
            "data": data.summary,
            "models": {
                name: model_section(scale, data) for name, scale in (("proxy", study.proxy), ("target", study.target))
            },
        }
        study = settled(study, folder, data)
        results["environment"]["dtype"] = study.training.dtype
        with _engine(study, folder / "data") as engine:
            stages = Stages(study, folder, data, engine, _trials(study, folder), progress)
            results["environment"]["engine"], results["environment"]["processes"] = study.engine.kind, engine.slots
            arms = Arms()
            try:
                searched = stages.search(arms)
            except Interrupted as stopped:
                save_best_so_far(study, results, stopped.so_far, folder)
                raise
            results["search"] = histories(searched, study.search.trials)
            save_ratios(study, results, arms, folder)
            if until == "search":
                return results
            results["transfer"] = histories(stages.transfer(arms), study.transfer.trials)
            results["ratios"] = {arm: {c: r.to_plain() for c, r in arms.ratios[arm].items()} for arm in arms.ratios}
            results["base"] = {
                arm: {"lr": arms.lr[arm], "final_fraction": arms.final_fraction[arm]} for arm in arms.ratios
            }
            results["comparison"] = stages.comparison(arms)
        results["cost"] = cost(study, results)
        save_ratios(study, results, arms, folder)
        write_atomic(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
        if until == "report":
            progress.stage("report", 0)
            write_report(folder)
        return results


def _engine(study: StudyConfig, data_folder: Path) -> Engine:
    asked = study.engine
    if asked.kind == "processes":
        return Processes(
            *(data_folder, study.processes), time_limit=asked.time_limit, gpus=asked.gpus, ranks=asked.ranks
        )
    return Ray(
        *(data_folder, asked.address),
        processes=study.processes,
        time_limit=asked.time_limit,
        cpus=asked.cpus,
        gpus=asked.gpus,
        resources=asked.resources,
        ranks=asked.ranks,
    )


def _trials(study: StudyConfig, folder: Path) -> Trials:
    if study.storage is None:
        return Trials(folder / "trials.db")
    return Trials(study.storage, study=study.name)


def train_one(
    study: StudyConfig,
    folder: Path,
    progress: StudyProgress,
    *,
    model: Literal["proxy", "target"],
    ratios: Ratios,
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
        ratios: relative rates.
        lr: base peak rate. If None, what the ratios were found with (on the target, if `model` is that), else the
            study's `search.lr`; the final fraction is the ratios' own in the same way.
        steps: optimizer steps; the study's if None.
        seed: of weights and data order.
        world: the ranks that train together, each of which calls this; this process alone if None.
        stop: looked at after every step; see `rlrs.training.train`.

    Raises:
        StudyError: a rate or a ratio that cannot be used, besides those of `run`.
        Stopped: `stop` was set, and the run is saved.
    """
    scale = study.proxy if model == "proxy" else study.target
    with _prepared_by_first(study, folder, progress, world or World()) as data:
        study = (world or World()).from_first(partial(settled, study, folder, data))
        ratios.check_used(partition(meta_model(scale.model, data.vocab_size)), f"the {model}")
        found = ratios.provenance.get("base", {})
        on_target = ratios.provenance.get("target", {}) if model == "target" else {}
        rate: float = on_target.get("lr", found.get("lr", study.search.lr)) if lr is None else lr
        fraction = found.get("final_fraction", study.training.final_fraction)
        try:
            spec = run_spec(study, scale, data, ratios, seed, lr=rate, final_fraction=fraction, steps=steps)
        except ValueError as error:
            raise StudyError(str(error)) from None
        progress.stage("training", spec.steps)
        where = folder / "runs" / spec.id
        return spec, train(spec, data, where, progress=lambda step, loss: progress.tick(step), world=world, stop=stop)


@contextmanager
def _prepared_by_first(study: StudyConfig, folder: Path, progress: StudyProgress, world: World) -> Iterator[TokenData]:
    """`prepared` by rank 0, which holds the directory for all ranks; the others open its data."""
    with ExitStack() as stack:
        world.from_first(lambda: stack.enter_context(prepared(study, folder, progress)) and None)
        yield TokenData.load(folder / "data")
