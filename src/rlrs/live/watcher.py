"""What the page shows, from the paths that it was started with: found anew at every look."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlrs.live.live_rollout import LiveRollout
from rlrs.live.live_run import RUN_FILES, LiveRun
from rlrs.live.live_study import STUDY_FILES, LiveStudy
from rlrs.monitoring.observation import METRICS
from rlrs.monitoring.thresholds import Thresholds
from rlrs.rollout.standing import SETTINGS
from rlrs.words import Words

Live = LiveRun | LiveStudy | LiveRollout
REST = 1.0
"""Seconds for which an answer is given again: several open pages read the files once. Chosen here."""


class Watcher:
    """Runs, studies and rollouts at some paths, as plain data that is JSON. Reads files, writes none, loads no model.

    Args:
        paths: folders of runs, studies or rollouts, folders that hold such, or files metrics.jsonl; need not be there.
        language: of sentences, `en` or `ja`.
        thresholds: of the checks on lines of metrics. If None, single runs are checked with the defaults, and runs of a
            study, which tries rates that are too high, are not.
        storage: URL of the database that the drivers of the studies share, if they do.
        clock: seconds since the epoch.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "metrics.jsonl").write_text('{"step": 1, "tokens": 64, "loss": 5.5}\\n{"step": 2, "to')
        >>> (item,) = Watcher([folder]).overview()["items"]
        >>> item["state"], item["step"], item["loss"]
        ('running', 1, 5.5)
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        language: str = "en",
        thresholds: Thresholds | None = None,
        storage: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.paths = [Path(path) for path in paths]
        self.words = Words(language)
        self._thresholds, self._storage, self._clock = thresholds, storage, clock
        self._lives: dict[Path, Live] = {}
        self._read = 0.0
        self._turn = threading.Lock()

    def overview(self) -> dict[str, Any]:
        """All runs, studies and rollouts, in the order in which their paths were given."""
        with self._turn:
            self._look()
            now = self._clock()
            kinds = {LiveRun: "run", LiveStudy: "study", LiveRollout: "rollout"}
            return {
                "items": [
                    {"id": identity(path), "kind": kinds[type(live)], "path": str(path), **live.summary(now)}
                    for path, live in self._lives.items()
                ]
            }

    def detail(self, item: str, run: str | None = None) -> dict[str, Any] | None:
        """All that is shown of one, or of a run of a study; None where there is no such.

        Args:
            item: its id in the overview.
            run: name of the run's folder.
        """
        with self._turn:
            self._look()
            live = next((live for path, live in self._lives.items() if identity(path) == item), None)
            if run is not None and isinstance(live, LiveStudy):
                live = live.runs.get(run)
                if live is not None:
                    live.look()
            elif run is not None:
                live = None
            return None if live is None else live.detail(self._clock())

    def _look(self) -> None:
        now = time.monotonic()
        if self._lives and now - self._read < REST:
            return
        found: dict[Path, Live] = {}
        for path in self.paths:
            for place in _places(path):
                old, kind = self._lives.get(place), _kind(place)
                found[place] = old if isinstance(old, kind) else self._made(kind, place)
        self._lives = found
        for live in found.values():
            live.look()
        self._read = time.monotonic()

    def _made(self, kind: type[Live], place: Path) -> Live:
        if kind is LiveRollout:
            return LiveRollout(place, self.words)
        if kind is LiveStudy:
            return LiveStudy(place, self.words, self._thresholds, self._storage)
        return LiveRun(place, self.words, self._thresholds or Thresholds())


def identity(path: Path) -> str:
    """By which a page names a path: it asks for none by itself."""
    return hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:10]


def _places(path: Path) -> list[Path]:
    """The path itself, or the runs, studies and rollouts in it where it is none."""
    if path.name == METRICS:
        return [path.parent]
    if _marks(path) or not path.is_dir():
        return [path]
    try:
        inside = [child for child in sorted(path.iterdir()) if child.is_dir() and _marks(child)]
    except OSError:
        inside = []
    return inside or [path]


def _marks(path: Path) -> list[str]:
    """Files by which a folder is known."""
    return [name for name in (SETTINGS, *STUDY_FILES, *RUN_FILES) if (path / name).is_file()]


def _kind(path: Path) -> type[Live]:
    marks = _marks(path)
    if SETTINGS in marks:
        return LiveRollout
    return LiveStudy if set(marks) & set(STUDY_FILES) else LiveRun
