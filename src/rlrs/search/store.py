"""Finished runs of searches, in a database by Optuna: read once, written as runs end, shared where wanted."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from rlrs.extras import install
from rlrs.records import Pruning, RunResult
from rlrs.search.claims import Claims
from rlrs.search.methods import Proposal
from rlrs.search.space import bounds
from rlrs.training import RunSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)

T = TypeVar("T")

BUSY = 60.0
"""Seconds to wait for another process that holds the lock of a SQLite database. Chosen here, not studied."""

LAPSE = 60.0
"""Seconds without a beat after which another driver's claim may be taken over. Chosen here, not studied."""

_STATES = {
    "finished": TrialState.COMPLETE,
    "diverged": TrialState.FAIL,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class StorageError(ValueError):
    """A database that cannot be used, or that belongs to another study."""


class Trials:
    """Finished runs of searches, one Optuna study per search.

    A run is known by `RunSpec.id`, which is a hash of everything that decides its numbers, and by its pruning, which
    decides where it ends. Without `study` the database is one driver's own, a file in its run directory. With `study`
    any number of drivers share it: each claims the runs that it trains and reads what the others finish.

    Args:
        where: a SQLite file, made if missing; or a database URL as SQLAlchemy takes it (`postgresql+psycopg://...`;
            `sqlite:///...` for drivers on one machine).
        study: the name that the study's searches have in a shared database; None for a database of one driver.
        busy: seconds to wait for a locked SQLite database.
        lapse: seconds without a beat after which another driver's claim may be taken over.

    Raises:
        StorageError: there is no database, it is damaged, or it cannot be written.
        ImportError: the extra that holds the database's driver is not installed.
    """

    def __init__(
        self, where: Path | str, *, study: str | None = None, busy: float = BUSY, lapse: float = LAPSE
    ) -> None:
        self._busy = busy
        url = _url(where)
        self.name = str(where) if isinstance(where, Path) else url.render_as_string(hide_password=True)
        file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        if file and file.exists() and file.stat().st_size and file.read_bytes()[:16] != b"SQLite format 3\0":
            raise StorageError(f"{self.name}: not a SQLite database; move it away, and a new one is made")
        # A server's connections are not kept: one that was dropped meanwhile would cost a result.
        options: dict[str, Any] = {"connect_args": {"timeout": busy}} if file else {"poolclass": sqlalchemy.NullPool}
        with self._errors():
            self._backend = _backend(url, options)
            self._storage = optuna.storages.get_storage(self._backend)
            self._claims = _made(lambda: Claims(self._backend.engine, lapse)) if study is not None else None
        self._prefix = "" if study is None else f"{study}/"
        self._beat = time.monotonic()
        self._beat_every = lapse / 6
        self._studies: dict[str, int] = {}
        self._finished: dict[tuple[str, str], RunResult] = {}

    @property
    def shared(self) -> bool:
        """Whether other drivers may be at work on the same searches."""
        return self._claims is not None

    def open(self, search: str, identity: Mapping[str, Any] | None = None) -> None:
        """Read what is finished of a search.

        Args:
            search: its name.
            identity: what decides the search's course, as plain data.

        Raises:
            StorageError: the search in the database has another identity; the message says where they differ.
        """
        with self._errors():
            study = self._study_id(self._prefix + search)
            self._studies[search] = study
            self._check(search, study, dict(identity or {}))
        self.refresh(search)
        # Runs given up say nothing of their points while none has ended: they are tried again.
        mine = {key: result for key, result in self._finished.items() if key[0] == search}
        if all(result.status == "failed" for result in mine.values()):
            self._finished = {key: result for key, result in self._finished.items() if key not in mine}

    def refresh(self, search: str) -> None:
        """Read what other drivers have finished since."""
        with self._errors():
            for trial in self._storage.get_all_trials(self._studies[search], deepcopy=False):
                if "result" in trial.user_attrs and trial.state.is_finished():
                    key = (search, trial.user_attrs["run"])
                    if key not in self._finished:
                        self._finished[key] = RunResult(**trial.user_attrs["result"])

    def finished(self, search: str, spec: RunSpec, prune: Pruning | None = None) -> RunResult | None:
        """The result of a run of this search, if it is finished (or was pruned, diverged, or was given up)."""
        return self._finished.get((search, _key(spec, prune)))

    def begin(self, search: str, spec: RunSpec, prune: Pruning | None = None) -> bool:
        """Claim a run; False if another driver has it, or has finished it since."""
        key = _key(spec, prune)
        with self._errors():
            if self._claims is None:
                return True
            if not self._claims.take(self._prefix + search, key):
                return False
            self.refresh(search)
            if (search, key) in self._finished:  # by whoever had the claim until just now
                self._claims.drop(self._prefix + search, key)
                return False
            return True

    def end(self, search: str, proposal: Proposal, spec: RunSpec, result: RunResult) -> RunResult | None:
        """Keep a finished run; the result that counts, or None if another driver has taken the run over.

        One that diverged is kept as failed, one that was pruned as pruned, with its result. A trial is written once,
        whole: a kill leaves none that is half there.
        """
        key = _key(spec, proposal.prune)
        with self._errors():
            if self._claims is not None and not self._claims.hold(self._prefix + search, key):
                # This driver was taken for dead: what it has is the other's by now, and counts once.
                self.refresh(search)
                return self._finished.get((search, key))
            self._storage.create_new_trial(self._studies[search], _trial(proposal, spec, result))
            if self._claims is not None:
                self._claims.drop(self._prefix + search, key)
        self._finished[search, key] = result
        return result

    def beat(self) -> None:
        """Keep this driver's claims; called now and then, it writes only when it is time."""
        if self._claims is not None and time.monotonic() - self._beat > self._beat_every:
            with self._errors():
                self._claims.beat()
            self._beat = time.monotonic()

    def leave(self) -> None:
        """Let go of this driver's claims, so that others need not wait until they lapse, and of the file."""
        with self._errors():
            if self._claims is not None:
                self._claims.drop_all()
            # SQLite puts its log into the file with the last connection that closes.
            self._backend.scoped_session.remove()
            self._backend.engine.dispose()

    def _study_id(self, name: str) -> int:
        try:
            study = self._storage.create_new_study([StudyDirection.MINIMIZE], name)
        except optuna.exceptions.DuplicatedStudyError:
            return self._storage.get_study_id_from_name(name)
        self._storage.set_study_system_attr(study, "study:metric_names", ["training loss, nats per token"])
        return study

    def _check(self, search: str, study: int, mine: dict[str, Any]) -> None:
        theirs = self._storage.get_study_user_attrs(study).get("identity")
        if theirs is None:
            self._storage.set_study_user_attr(study, "identity", json.loads(json.dumps(mine)))
        elif (difference := first_difference(theirs, json.loads(json.dumps(mine)))) is not None:
            raise StorageError(
                f"{self.name}: search {search} there is another one: {difference}; name another folder with --out, "
                "or another database"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            reason = str(getattr(cause, "orig", cause)).strip().splitlines()[0]
            if "database is locked" in reason:
                reason = (
                    f"another process has had it locked for more than {self._busy:g} s; the same command goes on once "
                    "that has ended"
                )
            raise StorageError(f"{self.name}: the database of trials cannot be used: {reason}") from None


def first_difference(theirs: Any, mine: Any, at: str = "") -> str | None:
    """The first setting in which two studies differ, in words."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in dict.fromkeys([*mine, *theirs]):
            found = first_difference(theirs.get(key), mine.get(key), f"{at}.{key}" if at else str(key))
            if found:
                return found
        return None
    return None if theirs == mine else f"{at} is {theirs!r} there and {mine!r} here"


def _url(where: Path | str) -> sqlalchemy.URL:
    if isinstance(where, Path):
        return sqlalchemy.URL.create("sqlite", database=str(where))
    try:
        return sqlalchemy.make_url(where)
    except ArgumentError:
        raise StorageError(
            "storage should be a database URL, such as postgresql+psycopg://USER@HOST/DATABASE: what was given is none"
        ) from None


def _made(make: Callable[[], T]) -> T:
    """What makes tables, tried again where another driver is making them at this moment."""
    for left in (2, 1, 0):
        try:
            return make()
        except (IntegrityError, ProgrammingError, OperationalError) as error:
            # Of SQLite, only this message says so.
            if not left or (isinstance(error, OperationalError) and "already exists" not in str(error)):
                raise
            time.sleep(1)
    raise AssertionError("unreachable")


def _backend(url: sqlalchemy.URL, options: dict[str, Any]) -> optuna.storages.RDBStorage:
    try:
        backend = _made(
            lambda: optuna.storages.RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
        )
        # All rows of a trial go to the database together, not each before the next one's look-ups, which costs more.
        backend.scoped_session.remove()
        backend.scoped_session.configure(autoflush=False)
        if url.get_backend_name() == "sqlite":
            _write_ahead(backend.engine)
        return backend
    except NoSuchModuleError:
        raise StorageError(f"no kind of database is called {url.drivername!r}; postgresql+psycopg is one") from None
    except ImportError as error:
        hint = install("postgresql") if url.get_backend_name() == "postgresql" else "install its driver"
        raise ImportError(f"the database {url.drivername} needs a library: {hint} ({error})") from None


def _write_ahead(engine: sqlalchemy.Engine) -> None:
    """Have SQLite keep a write-ahead log: one wait for the disk per trial in the place of several.

    As safe against kills and loss of power as its default, and who reads (a dashboard) holds up nobody who writes. The
    file remembers it; where another process has it open, it may stay as it is.
    """
    with suppress(OperationalError), engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")


def _key(spec: RunSpec, prune: Pruning | None) -> str:
    """What a run is known by: what decides its numbers, and where it ends."""
    if prune is None:
        return spec.id
    return f"{spec.id}-{hashlib.sha256(json.dumps(prune.to_plain()).encode()).hexdigest()[:12]}"


def _trial(proposal: Proposal, spec: RunSpec, result: RunResult) -> FrozenTrial:
    distributions: dict[str, BaseDistribution] = {
        name: FloatDistribution(low, high, log=low > 0)
        for name, (low, high) in ((name, bounds(name)) for name in proposal.params)
    }
    attributes: dict[str, Any] = {"run": _key(spec, proposal.prune), "move": proposal.move}
    if proposal.prune is not None:
        attributes["prune"] = proposal.prune.to_plain()
    trial = optuna.create_trial(
        state=_STATES[result.status],
        value=result.score,
        params=proposal.params,
        distributions=distributions,
        user_attrs=attributes | {"result": result.to_plain()},
    )
    trial.datetime_start = datetime.now() - timedelta(seconds=result.seconds)
    return trial
