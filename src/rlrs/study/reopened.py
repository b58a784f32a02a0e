"""A finished study, opened again for further runs: nothing that it found is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrs.comparison import read_results
from rlrs.environment import environment
from rlrs.messages import printable
from rlrs.records import Results
from rlrs.records.results import Scalar
from rlrs.search import Engine
from rlrs.search.space import AnySpec
from rlrs.settings import ScaleConfig, StudyConfig, study_from
from rlrs.study.directory import StudyError, StudyProgress
from rlrs.study.kinds import RunKind
from rlrs.study.resolve import resolve
from rlrs.study.runner import kind_of_runs
from rlrs.study.timing import StepTimes, step_times

FIRST_REFUTING_SEED = 2_000_000
"""Of fresh seeds for claims; far from those of searches, comparisons and re-tests."""
FIRST_ABLATION_SEED = 3_000_000
"""Of all ablations of a study, which are paired with each other."""


@dataclass(frozen=True)
class FinishedStudy:
    """A study with a comparison, held by this process.

    Args:
        folder: its run directory.
        study: settings, resolved.
        kind: of its runs.
        results: what it found.
    """

    folder: Path
    study: StudyConfig
    kind: RunKind
    results: Results

    def seeds(self, first: int, count: int, used: Iterable[int] = ()) -> tuple[int, ...]:
        """Seeds that nothing in the study has used.

        Args:
            first: see above.
            count: how many.
            used: further ones that are left out.
        """
        taken = {self.study.search.seed, *used}
        if self.results.comparison is not None:
            taken |= set(self.results.comparison.seeds)
        for arm in self.results.arms.values():
            trials = [trial for search in (arm.search, arm.transfer) if search is not None for trial in search.trials]
            taken |= {trial.seed for trial in trials if trial.seed is not None}
        found: list[int] = []
        seed = first + 1000 * self.study.search.seed
        while len(found) < count:
            if seed not in taken:
                found.append(seed)
            seed += 1
        return tuple(found)

    def environment(self, engine: Engine) -> dict[str, Scalar]:
        """Versions, commit and processor of further runs, as results.json has those of the study."""
        used: dict[str, Any] = {"dtype": self.study.training.dtype, "engine": self.study.engine.kind}
        return {**environment(), **used, "processes": engine.slots}


@dataclass(frozen=True)
class FurtherCost:
    """What further runs will take, stated before any of them.

    Args:
        runs: all of them.
        there: of these, finished before.
        steps: of those that are not there.
        tokens: likewise; 0 where they are not known.
        flops: likewise.
        hours: likewise, here, one run at a time; None where the pace is not known.
    """

    runs: int
    there: int
    steps: int
    tokens: int
    flops: float
    hours: float | None


def study_folder(result: Path) -> Path:
    """The run directory that a folder or its results.json stands for.

    Raises:
        StudyError: it is neither.
    """
    folder = result.parent if result.name == "results.json" else result
    if not (folder / "results.json").is_file():
        raise StudyError(
            f"{printable(str(folder / 'results.json'))}: there is none; name the run directory of a finished study"
        )
    return folder


def compared(folder: Path) -> Results:
    """What a study found that was compared.

    Raises:
        StudyError: it was not compared yet.
        RecordError: results.json is damaged.
    """
    results = read_results(folder / "results.json")
    if results.comparison is None:
        raise StudyError(
            f"{printable(str(folder))}: has no comparison yet; finish the study first (rlrs run STUDY.yaml)"
        )
    return results


@contextmanager
def reopened(folder: Path, progress: StudyProgress, processes: int | None = None) -> Iterator[FinishedStudy]:
    """Hold a finished study's run directory, with its settings, its kind of runs and its data.

    Args:
        folder: the run directory.
        progress: is told what happens.
        processes: runs side by side; the study's own number if None.

    Raises:
        StudyError: no such study; other data or settings than it was compared with; another process is at work on it.
        ConfigError, EngineError: as their names say.
    """
    results = compared(folder)
    study = resolve(study_from(results.study.config, printable(str(folder / "results.json"))))
    if processes is not None:
        study = study.model_copy(update={"processes": processes})
    with kind_of_runs(study, folder, progress) as (settled, kind):
        if kind.data.get("hash") != results.data.get("hash"):
            raise StudyError(
                f"{printable(str(folder))}: its data are others now (hash {kind.data.get('hash')}, "
                f"{results.data.get('hash')} when it was compared); further runs would not be comparable"
            )
        yield FinishedStudy(folder, settled, kind, results)


def cost_of(opened: FinishedStudy, specs: Iterable[tuple[ScaleConfig, AnySpec]]) -> FurtherCost:
    """What runs will take that are asked for.

    Args:
        opened: the study.
        specs: every run with its size.
    """
    pairs = list({spec.id: (scale, spec) for scale, spec in specs}.values())
    left = [(scale, spec) for scale, spec in pairs if not _is_there(opened.folder, spec)]
    times = step_times(opened.study, opened.folder, probe=False)
    hours: float | None = 0.0
    tokens, flops = 0, 0.0
    for scale, spec in left:
        size = opened.kind.size(scale)
        tokens += spec.steps * (size.tokens // size.steps)
        flops += opened.kind.flops(spec, spec.steps)
        pace = _step_seconds(opened.study, times, scale)
        hours = None if hours is None or pace is None else hours + spec.steps * pace / 3600
    steps = sum(spec.steps for _, spec in left)
    return FurtherCost(len(pairs), len(pairs) - len(left), steps, tokens, flops, hours)


def _step_seconds(study: StudyConfig, times: StepTimes, scale: ScaleConfig) -> float | None:
    """Of a step of a size: as its model was timed, times the growth of the batch; None where that is not known."""
    is_proxy = scale.model == study.proxy.model and scale.set == study.proxy.set
    timed, own = (times.proxy, study.proxy) if is_proxy else (times.target, study.target)
    if timed is None or not scale.batch_size or not own.batch_size:  # a trainer of the user's own has its own batch
        return timed
    return timed * scale.batch_size / own.batch_size


def _is_there(folder: Path, spec: AnySpec) -> bool:
    return (folder / "runs" / spec.id / "result.json").exists()
