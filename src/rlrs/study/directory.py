"""A study's run directory: held by one process, and for one study only."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import yaml

from rlrs.data import TokenData, prepare
from rlrs.files import write_atomic
from rlrs.records import Trial
from rlrs.search import first_difference
from rlrs.settings import StudyConfig, changing


class StudyError(ValueError):
    """A run directory that cannot be used for this study."""


class StudyProgress(Protocol):
    """What the pipeline tells about its course."""

    def stage(self, name: str, steps: int, unit: str = "steps", searches: Mapping[str, int] | None = None) -> None:
        """A stage begins.

        Args:
            name: of the stage.
            steps: the most training steps that it may take, or so many of another unit.
            unit: of `steps`.
            searches: of a stage that searches, by name (`proxy/ARM`, `target/ARM`): most whole runs of each.
        """

    def tick(self, steps: int) -> None:
        """Training steps done so far in this stage."""

    def trial(self, search: str, trial: Trial, flops: float, *, found: bool) -> None:
        """A run of a search has ended, after so many FLOPs; or it was `found`, finished before or by another driver."""


@contextmanager
def prepared(study: StudyConfig, folder: Path, progress: StudyProgress) -> Iterator[TokenData]:
    """Hold a run directory for one process and one study only, with the study's data in it."""
    path, mine = folder / "study.yaml", changing(study)
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{folder}: not a folder; name another with --out")
    if folder.exists() and not path.exists() and {entry.name for entry in folder.iterdir()} - {"lock", "data"}:
        raise StudyError(f"{folder}: holds files but no study.yaml, so it is no study's run directory; name another")
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StudyError(f"{folder}: another process is at work on this study") from None
        if path.exists():
            try:
                theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
            except (yaml.YAMLError, UnicodeDecodeError):
                raise StudyError(f"{path}: damaged; remove the folder to start again") from None
            if (difference := first_difference(theirs, mine)) is not None:
                raise StudyError(f"{folder}: belongs to another study: {difference}; name another folder with --out")
        progress.stage("data", 0)
        try:
            data = prepare(study.data, folder / "data", _in_megabytes(progress))
        except ValueError:
            # A corpus that cannot be used leaves no run directory behind; hours of preparing it do stay.
            if fresh and not (folder / "data" / "progress.json").exists():
                shutil.rmtree(folder)
            raise
        # After the data: a study whose corpus could not be read has not claimed the folder.
        write_atomic(path, yaml.safe_dump(mine, sort_keys=False))
        yield data


def _in_megabytes(progress: StudyProgress) -> Callable[[int, int | None], None]:
    """Tells how far text is made into tokens; of tokens that are there already, nothing."""
    begun = False

    def tell(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            progress.stage("tokens", (total or 0) // 1_000_000, "MB of text")
            begun = True
        progress.tick(done // 1_000_000)

    return tell
