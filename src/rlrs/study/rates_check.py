"""Are the rates of a study's trainer real? Asked before its first trial, with a run of some steps of the proxy."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from rlrs.files import write_atomic
from rlrs.records import Recipe
from rlrs.search import SEARCHED, EngineError
from rlrs.settings import StudyConfig
from rlrs.study.directory import StudyError, StudyProgress, held, prepared
from rlrs.study.dtype import settled
from rlrs.study.kinds import ReferenceRuns, RunKind
from rlrs.study.preparing import own_runs
from rlrs.study.resolve import resolve
from rlrs.verify import Finding, Report

log = logging.getLogger("rlrs.study")
STEPS = 3
"""Of every optimizer, as `rlrs.verify` has it."""
FOLDER = "verify"
"""In the run directory: files of the run that was verified last."""
_SOUND = "sound.json"


def verify_study(study: StudyConfig, folder: Path, progress: StudyProgress, steps: int = STEPS) -> Report:
    """Run a study's trainer for some steps on the proxy, and compare its realised rates with what they should be.

    The trainer gets ratios that all differ, 1/2 to 1 of the base rate, so that rates that were mixed up show.

    Args:
        study: settings.
        folder: the study's run directory; a trainer of the user's own leaves its files in `folder/verify`, the
            reference trainer the study's data. A study that has not begun has not claimed it after that.
        progress: is told what happens.
        steps: optimizer steps to look at, at least 1.

    Raises:
        StudyError: the folder is another study's, or the trainer cannot be asked for its rates.
        EngineError: the trainer failed.
        ConfigError: settings that cannot be used.
    """
    study = resolve(study)
    if study.trainer is None:
        with prepared(study, folder, progress) as data:
            study = settled(study, folder, data)
            return _verified(study, ReferenceRuns(study, data), folder, progress, steps)
    if study.trainer.loss is not None:
        raise StudyError(
            "trainer.loss is read from the program's output, so the program cannot be asked for its rates: put "
            "`with rlrs.verify(model, optimizer):` around some steps of its own loop"
        )
    with held(study, folder):
        return _verified(study, own_runs(study, folder, progress), folder, progress, steps)


def check_rates(study: StudyConfig, kind: RunKind, folder: Path, progress: StudyProgress) -> None:
    """Verify a study's own trainer once, before its first trial; nothing where that is not wanted or cannot be.

    Args:
        study: settings, resolved; of a trainer of the user's own.
        kind: of its runs.
        folder: the run directory, held by this process.
        progress: is told what happens.

    Raises:
        StudyError: a rate is not what it says.
        EngineError: the trainer failed.
    """
    trainer = study.trainer
    assert trainer is not None
    if not trainer.verify or trainer.loss is not None:
        return
    sound = folder / FOLDER / _SOUND
    run = _probe(study, kind).id
    if sound.exists() and _read(sound) == run:
        return
    report = _verified(study, kind, folder, progress, STEPS)
    if report.findings:
        said = "; ".join(f"{_words(finding)}: {finding.cause}" for finding in report.findings[:3])
        more = f"; and {len(report.findings) - 3} more" if len(report.findings) > 3 else ""
        raise StudyError(
            f"the rates of the trainer are not what they say: {said}{more}. `rlrs verify` shows all of it; with "
            "`trainer: {verify: false}` the study goes on without"
        )
    if not report.ok:
        log.warning("the trainer's rates could not be verified: %s", "; ".join(report.notes) or "it took no step")
    write_atomic(sound, json.dumps({"run": run, "verified": report.ok}) + "\n")


def _verified(study: StudyConfig, kind: RunKind, folder: Path, progress: StudyProgress, steps: int) -> Report:
    progress.stage("verify", steps)
    try:
        return kind.verified(_probe(study, kind), folder / FOLDER, steps, progress.tick)
    except EngineError as error:
        raise EngineError(f"{error}; the trainer could not be verified") from None


def _probe(study: StudyConfig, kind: RunKind):
    components = [component for component in kind.components() if component in SEARCHED]
    # 1/2 to 1 of the base rate: no rate is above one that the search begins with. Chosen here.
    spread = [0.5 + 0.5 * place / max(1, len(components) - 1) for place in range(len(components))]
    ratios = {name: ((0.0, ratio), (1.0, ratio / 2)) for name, ratio in zip(components, spread, strict=True)}
    recipe = Recipe.from_settings(study.training, study.search.lr).model_copy(update={"ratios": ratios})
    if recipe.muon_rate is not None:  # another than 1, so that it shows whether it is used
        recipe = recipe.model_copy(update={"muon_rate": 0.75 * recipe.muon_rate})
    return kind.spec(study.proxy, recipe, study.search.seed, lr=study.search.lr)


def _words(finding: Finding) -> str:
    factor = "" if finding.factor is None else f" ({finding.factor:.3g} of what was promised)"
    return f"{finding.component} {finding.kind.replace('_', ' ')}{factor}"


def _read(path: Path) -> str | None:
    try:
        return json.loads(path.read_text()).get("run")
    except (OSError, ValueError, AttributeError):
        return None
