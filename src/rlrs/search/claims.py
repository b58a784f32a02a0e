"""Who trains what: claims that several drivers make on the runs of one study, in the study's own database."""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

_METADATA = sql.MetaData()
_CLAIMS = sql.Table(
    "rlrs_claims",
    _METADATA,
    sql.Column("study", sql.String(255), primary_key=True),
    sql.Column("run", sql.String(64), primary_key=True),
    sql.Column("owner", sql.String(32), nullable=False),
    sql.Column("beat", sql.Integer, nullable=False),
)


class Claims:
    """Claims of one driver, among those of others.

    A driver that lives counts its claims' `beat` up. A claim whose beat has not moved for `lapse` seconds, by the clock
    of whoever looks, is a dead driver's, and can be taken over: no two machines' clocks are ever compared. Every step
    is one transaction whose outcome the database decides.

    Args:
        database: of the study.
        lapse: seconds.
    """

    def __init__(self, database: sql.Engine, lapse: float) -> None:
        self.owner = uuid.uuid4().hex
        self._database, self._lapse = database, lapse
        self._seen: dict[tuple[str, str], tuple[str, int, float]] = {}
        _METADATA.create_all(database)

    def take(self, study: str, run: str) -> bool:
        """Claim a run; False while another driver, which may still live, has it."""
        try:
            with self._database.begin() as connection:
                connection.execute(_CLAIMS.insert().values(study=study, run=run, owner=self.owner, beat=0))
            return True
        except IntegrityError:
            pass
        here = (_CLAIMS.c.study == study) & (_CLAIMS.c.run == run)
        with self._database.begin() as connection:
            row = connection.execute(sql.select(_CLAIMS.c.owner, _CLAIMS.c.beat).where(here)).one_or_none()
            if row is None:  # let go of this moment
                return False
            if row.owner == self.owner:
                return True
            now, seen = time.monotonic(), self._seen.get((study, run))
            if seen is None or seen[:2] != (row.owner, row.beat):
                self._seen[study, run] = row.owner, row.beat, now
                return False
            if now - seen[2] < self._lapse:
                return False
            stale = here & (_CLAIMS.c.owner == row.owner) & (_CLAIMS.c.beat == row.beat)
            return connection.execute(_CLAIMS.update().where(stale).values(owner=self.owner, beat=0)).rowcount == 1

    def beat(self) -> None:
        """Say that this driver lives."""
        with self._database.begin() as connection:
            mine = _CLAIMS.c.owner == self.owner
            connection.execute(_CLAIMS.update().where(mine).values(beat=_CLAIMS.c.beat + 1))

    def hold(self, study: str, run: str) -> bool:
        """Whether a run is still this driver's, as it then is for another `lapse` seconds."""
        with self._database.begin() as connection:
            mine = (_CLAIMS.c.study == study) & (_CLAIMS.c.run == run) & (_CLAIMS.c.owner == self.owner)
            return connection.execute(_CLAIMS.update().where(mine).values(beat=_CLAIMS.c.beat + 1)).rowcount == 1

    def drop(self, study: str, run: str) -> None:
        """Let go of a run, its result written."""
        with self._database.begin() as connection:
            mine = (_CLAIMS.c.study == study) & (_CLAIMS.c.run == run) & (_CLAIMS.c.owner == self.owner)
            connection.execute(_CLAIMS.delete().where(mine))

    def drop_all(self) -> None:
        """Let go of everything, so that others need not wait."""
        with self._database.begin() as connection:
            connection.execute(_CLAIMS.delete().where(_CLAIMS.c.owner == self.owner))
