"""Trials of a study's searches, read from its trials.db while others write it, and without writing anything.

`rlrs.search` makes and writes that file; its storage would upgrade and lock it. Here it is read as SQLite alone.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

_ROWS = """
select s.study_name, t.number, t.state, v.value, t.datetime_start, t.datetime_complete,
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'run'),
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'proposal'),
  (select value_json from trial_user_attributes a where a.trial_id = t.trial_id and a.key = 'result')
from studies s join trials t on t.study_id = s.study_id
left join trial_values v on v.trial_id = t.trial_id and v.objective = 0
order by s.study_id, t.number
"""
_STATES = {"WAITING": "waiting", "RUNNING": "running", "COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "diverged"}


@dataclass(frozen=True)
class LiveTrial:
    """One row: a trial of a search."""

    search: str
    """`proxy/ARM`, `target/ARM`, `ladder/...`: without the hash that the database has behind it."""
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
    # With a write-ahead log, SQLite needs its index; without one, nobody is at work and no lock is taken.
    how = "mode=ro&readonly_shm=1" if path.with_name(f"{path.name}-wal").exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=0.2)) as database:
            return [_trial(*row) for row in database.execute(_ROWS)]
    except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


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
        search="/".join(search.split("/")[: 3 if search.startswith("ladder/") else 2]),
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
