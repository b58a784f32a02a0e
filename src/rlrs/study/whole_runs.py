"""Runs that are trained to their ends, with their files in the run directory: what comparisons are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rlrs.records import RunResult
from rlrs.search import Engine, EngineError
from rlrs.search.space import AnySpec
from rlrs.study.directory import StudyProgress

K = TypeVar("K", bound=tuple[Any, ...])


class WholeRuns:
    """Trains runs of a study to their ends. Finished ones are not trained again, whatever asked for them before.

    Args:
        folder: the study's run directory.
        engine: inside its `with` block.
        progress: is told what happens.
    """

    def __init__(self, folder: Path, engine: Engine, progress: StudyProgress) -> None:
        self.folder, self.engine, self.progress = folder, engine, progress

    def begin(self, name: str, steps: int, searches: Mapping[str, int] | None = None) -> Callable[[int], None]:
        """A stage of so many steps at most begins; what is called with the engine's steps while it lasts."""
        self.progress.stage(name, steps, searches=searches and {spoken(s): most for s, most in searches.items()})
        before = self.engine.steps
        return lambda done: self.progress.tick(done - before)

    def train_all(self, stage: str, specs: Mapping[K, AnySpec]) -> dict[K, tuple[AnySpec, RunResult]]:
        """Train runs to their ends, with their files kept, and with a validation loss.

        Args:
            stage: its name.
            specs: runs by arm, seed and what else tells them apart.

        Raises:
            EngineError: a run that was given up: pairs cannot do without it.
        """
        tick = self.begin(stage, sum(spec.steps for spec in specs.values()))
        for key, spec in specs.items():
            self.engine.submit(key, spec, self.run_folder(spec))
        done: dict[Any, RunResult] = {}
        while self.engine.pending:
            ended = self.engine.next(tick)
            assert ended is not None, "it waits as long as it takes"
            key: Any = ended[0]
            done[key] = ended[1]
            if done[key].status == "failed":
                # A search can do without a run; a comparison of pairs cannot.
                spec, names = specs[key], ", ".join(part for part in key if isinstance(part, str))
                raise EngineError(
                    f"run {spec.id} of the {stage} (arm {names}, seed {spec.seed}): {done[key].reason}; "
                    "finished runs are kept, and the same command tries it again"
                )
        return {key: (spec, done[key]) for key, spec in specs.items()}

    def run_folder(self, spec: AnySpec) -> Path:
        """Where a run's files are, whichever stage made it."""
        return self.folder / "runs" / spec.id


def spoken(search: str) -> str:
    """A search's name as it is shown, `target/ARM` or `ladder/ARM/RUNG`: without the hash that its record has."""
    return "/".join(search.split("/")[: 3 if search.startswith("ladder/") else 2])
