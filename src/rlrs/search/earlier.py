"""Trials of an earlier study's database, as what a new search knows before it begins; the database is left as it is."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rlrs.files import sqlite_read_only
from rlrs.messages import printable
from rlrs.records import Trial
from rlrs.search.space import Point, Space
from rlrs.search.store import StorageError, TrialStore

Known = Sequence[tuple[Point, float]]
"""Points with their scores, nats per token, the lowest first."""


def earlier_trials(path: Path) -> dict[str, list[Trial]]:
    """Finished whole trials by search (`proxy/rlrs`, `search`), the lowest score first; nothing is written there.

    Args:
        path: a `trials.db`; one that a study is at work on may be read as well.

    Raises:
        StorageError: no database of trials, or a damaged one.
    """
    name = printable(str(path))
    if not path.is_file():
        raise StorageError(f"{name}: there is no such file")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "trials.db"
        try:
            with (
                closing(sqlite3.connect(sqlite_read_only(path), uri=True)) as theirs,
                closing(sqlite3.connect(copy)) as mine,
            ):
                theirs.backup(mine)
        except sqlite3.Error as error:
            raise StorageError(f"{name}: not a database of trials: {error}") from None
        store = TrialStore(copy)
        try:
            found = {}
            for search in store.searches():
                store.open(search)
                whole = [trial for trial in store.trials(search) if trial.whole and trial.measured]
                found[search] = sorted(whole, key=lambda trial: (trial.score, trial.number))
        except StorageError as error:
            raise StorageError(str(error).replace(str(copy), name)) from None
        finally:
            store.leave()
    return {search: trials for search, trials in found.items() if trials}


def in_space(known: Known, space: Space) -> Known:
    """The same points in a space: what it does not have is left out, and what they do not have is at its start."""
    start = space.start()
    return [
        (
            space.point([p.coordinate(min(max(point.get(p.name, start[p.name]), p.low), p.high)) for p in space.free]),
            score,
        )
        for point, score in known
    ]
