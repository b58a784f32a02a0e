"""Trials of a study's searches, read from its trials.db while others write it, and without writing anything.

`rlrs.search` makes and writes that file; its storage would upgrade and lock it. Here it is read as SQLite alone.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rlrs.files import sqlite_read_only
from rlrs.messages import printable

_ROWS = """
select s.study_name, t.number, t.state, v.value, t.datetime_start, t.datetime_complete,
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'run'),
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'proposal'),
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'result')
from studies s join trials t on t.study_id = s.study_id
left join trial_values v on v.trial_id = t.trial_id and v.objective = 0
order by s.study_id, t.number
"""
PERIOD = 4.0
"""Seconds between two questions to a shared database. Chosen here."""
_STATES = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "diverged"}


@dataclass(frozen=True)
class LiveTrial:
    """One row: a trial of a search."""

    search: str
    """`proxy/ARM`, `target/ARM`, `ladder/...`: without the hash that the database has behind it. Of the transfers of an
    arm by several recipes, or of a rung's searches, the second ends in `/2`, and so on."""
    number: int
    state: str
    score: float | None
    """Nats per token."""
    move: str
    """What led to it, in words."""
    whole: bool
    """Whether its score is comparable: full length, full width, the search's seed."""
    run: str
    params: dict[str, float]
    seconds: float | None
    """That it took."""

    @property
    def ended(self) -> bool:
        """Whether it has a result."""
        return self.state not in ("waiting", "running")


def read_trials(path: Path) -> list[LiveTrial]:
    """All trials of all searches, in order.

    Args:
        path: of a trials.db.

    Raises:
        ValueError: the file cannot be read as one, at present or at all; one line.
    """
    try:
        with closing(sqlite3.connect(sqlite_read_only(path), uri=True, timeout=0.2)) as database:
            return _trials(list(database.execute(_ROWS)))
    except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


class SharedTrials:
    """Trials of a study in a database that several drivers share.

    Args:
        url: of the database.
    """

    def __init__(self, url: str) -> None:
        self._url, self._engine = url, None
        self._trials: list[LiveTrial] = []
        self._asked = -math.inf
        self.problem = ""
        """Why the last look found nothing new, in one line without the password."""

    def look(self, study: str) -> list[LiveTrial]:
        """All trials of a study; those of the last time for `PERIOD` seconds, and where the database does not answer.

        Args:
            study: its name, which its searches there begin with.
        """
        if time.monotonic() - self._asked < PERIOD:
            return self._trials
        self._asked = time.monotonic()
        try:
            import sqlalchemy

            self._engine = self._engine or sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.NullPool)
            with self._engine.connect() as connection:
                rows = [tuple(row) for row in connection.execute(sqlalchemy.text(_ROWS))]
            mine = f"{study}/"
            self._trials = _trials([(row[0].removeprefix(mine), *row[1:]) for row in rows if row[0].startswith(mine)])
            self.problem = "" if self._trials else f"the database has no trials of {study}"
        except Exception as error:  # of any driver
            secret = urlsplit(self._url).password
            said = str(error).partition("\n")[0]
            said = said.replace(secret, "***") if secret else said
            self.problem = printable(f"the shared database cannot be read: {said}", 300)
        return self._trials


def _trials(rows: Sequence[tuple[Any, ...]]) -> list[LiveTrial]:
    """Trials from rows of `_ROWS`; searches of one name and another hash have a number behind the name."""
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for full in dict.fromkeys(row[0] for row in rows):
        short = "/".join(full.split("/")[: 3 if full.startswith("ladder/") else 2])
        counts[short] = counts.get(short, 0) + 1
        names[full] = short if counts[short] == 1 else f"{short}/{counts[short]}"
    return [_trial(names[row[0]], *row[1:]) for row in rows]


def _trial(
    search: str,
    number: int,
    state: str,
    score: float | None,
    begun: str | None,
    ended: str | None,
    run: str | None,
    proposal: str | None,
    result: str | None,
) -> LiveTrial:
    asked: dict[str, Any] = json.loads(proposal) if proposal else {}
    told: dict[str, Any] = json.loads(result) if result else {}
    return LiveTrial(
        search=search,
        number=number,
        state=str(told.get("status") or _STATES.get(state, state.lower())),
        score=_number(score if score is not None else told.get("score")),
        move=str(asked.get("move", "")),
        whole=all(asked.get(name) is None for name in ("steps", "width", "seed", "learn")),
        run=json.loads(run) if run else "",
        params={name: float(value) for name, value in dict(asked.get("params", {})).items()},
        seconds=_number(told.get("seconds")),
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
