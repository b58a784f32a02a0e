"""A study's run directory: held by one process, and for one study only."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from rlrs.data import TokenData, prepare
from rlrs.files import locked, write_atomic
from rlrs.messages import printable
from rlrs.records import Trial
from rlrs.settings import ConfigError, StudyConfig, changing, difference, kept, study_from
from rlrs.yaml_files import YAMLError, dump_yaml, load_yaml

_RUN = re.compile("[0-9a-f]{12}")
"""What a run is called."""


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
    """Hold a run directory for one process and one study only, with the study's data in it.

    A study that asks for more than the one that is there (`rlrs.settings.MAY_GROW`) goes on with it, and study.yaml
    then says what it asks for.

    Args:
        study: settings, resolved.
        folder: the run directory; made if missing.
        progress: is told what happens.

    Raises:
        StudyError: the folder is another study's or no study's, or another process is at work in it.
        ConfigError: text that cannot be used; a folder that was made for it is removed.
    """
    if study.trainer is not None:
        raise StudyError(f"{study.name} has a trainer of its own, and that its own data")
    with held(study, folder) as fresh:
        if not (folder / "data" / "data.json").exists():
            progress.stage("data", 0)
        try:
            data = prepare(study.data, folder / "data", in_megabytes(progress))
        except ValueError:
            # A corpus that cannot be used leaves no run directory behind; hours of preparing it do stay.
            if fresh and not (folder / "data" / "progress.json").exists():
                shutil.rmtree(folder)
            raise
        # After the data: a study whose corpus could not be read has not claimed the folder.
        claim(study, folder)
        yield data


def claim(study: StudyConfig, folder: Path) -> None:
    """Make a run directory this study's, by the study.yaml in it."""
    write_atomic(folder / "study.yaml", dump_yaml(kept(study)))


@contextmanager
def held(study: StudyConfig, folder: Path) -> Iterator[bool]:
    """Hold a run directory for one process and one study only; whether it was made for it. See `prepared`."""
    path, mine, where = folder / "study.yaml", changing(study), printable(str(folder))
    if folder.exists() and not folder.is_dir():
        raise StudyError(f"{where}: not a folder; name another with --out")
    if (
        folder.exists()
        and not path.exists()
        and {entry.name for entry in folder.iterdir()} - {"lock", "data", "verify"}
    ):
        raise StudyError(f"{where}: holds files but no study.yaml, so it is no study's run directory; name another")
    if folder.is_symlink() and not folder.exists():
        raise StudyError(
            f"{where}: a link to {printable(str(folder.readlink()))}, which is not there; make that folder first"
        )
    _check_entries(folder)
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        if path.exists() and (different := difference(changing(_read(path)), mine)) is not None:
            raise StudyError(f"{where}: belongs to another study: {different}; name another folder with --out")
        yield fresh


_FILES = ("study.yaml", "lock", "audit.jsonl", "trials.db", "ratios.yaml", "results.json", "report.html")


def _check_entries(folder: Path) -> None:
    """See that no folder stands where a study writes a file, and no file where it has a folder."""
    runs = folder / "runs"
    places = [runs, *runs.iterdir()] if runs.is_dir() else [runs]
    for path in places:
        if path.is_file() and (path == runs or _RUN.fullmatch(path.name)):
            raise StudyError(f"{printable(str(path))}: a file, where the study has a folder; move it away")
    for name in _FILES:
        if (folder / name).is_dir():
            raise StudyError(f"{printable(str(folder / name))}: a folder, where the study has a file; move it away")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock", wait=False))
        except BlockingIOError:
            raise StudyError(f"{printable(str(folder))}: another process is at work on this study") from None
        yield


def _read(path: Path) -> StudyConfig:
    """The study.yaml of a run directory."""
    try:
        return study_from(load_yaml(path), printable(str(path)))
    except (YAMLError, ConfigError) as error:
        raise StudyError(
            f"{error}; it is damaged, or another version's: put it right, or name another folder with --out"
        ) from None


def in_megabytes(progress: StudyProgress) -> Callable[[int, int | None], None]:
    """Tells how far text is made into tokens; of tokens that are there already, nothing."""
    begun = False

    def tell(done: int, total: int | None) -> None:
        nonlocal begun
        if not begun:
            progress.stage("tokens", (total or 0) // 1_000_000, "MB of text")
            begun = True
        progress.tick(done // 1_000_000)

    return tell
