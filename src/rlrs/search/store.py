"""The record of searches: their trials in a database by Optuna, written before they are trained and when they end."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from pydantic import ValidationError
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from rlrs.extras import install
from rlrs.messages import printable, shown
from rlrs.records import Proposal, RunResult, SearchResult, Trial
from rlrs.records.frozen import Record, first_problem
from rlrs.search.claims import Claims
from rlrs.search.space import bounds

optuna.logging.set_verbosity(optuna.logging.WARNING)

T = TypeVar("T")

BUSY = 60.0
"""Seconds to wait for another process that holds the lock of a SQLite database. Chosen here, not studied."""

LAPSE = 60.0
"""Seconds without a beat after which another driver's claim may be taken over. Chosen here, not studied."""

_STATES = {"finished": TrialState.COMPLETE, "diverged": TrialState.FAIL, "pruned": TrialState.PRUNED}
_PLAN = "plan"
"""Name of the claim on a search's next batch."""


class StorageError(ValueError):
    """A database that cannot be used, or that belongs to another study."""


class _Batch(Record):
    """A batch as its method asked for it: what a kill left unwritten is written from here, not asked for anew."""

    number: int
    proposals: tuple[Proposal, ...]
    runs: tuple[str, ...]


class TrialStore:
    """Trials of searches, one Optuna study per search, one row per run.

    A batch is written as waiting trials before any of it is trained. A row is running while a driver trains it, and
    complete, pruned or failed (diverged) when it has a result. A run that an engine gave up waits again: the next start
    of the study tries it again.

    Without `study` the database is one driver's own, a file in its run directory. With `study` any number of drivers
    share it: one at a time writes a search's next batch, each claims the runs that it trains, and reads what the others
    finish.

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
        self._rows: dict[str, list[int]] = {}
        """Of a search: Optuna's id of each trial, by the trial's number."""
        self._trials: dict[str, list[Trial]] = {}
        self._places: dict[str, set[tuple[int, int]]] = {}
        """Of a search: batch and place in it of each trial."""
        self._batch: dict[str, _Batch | None] = {}
        """Of a search: the last batch as it was asked for, of which rows may be missing."""
        self.running: set[tuple[str, int]] = set()
        """Trials that this driver has begun."""

    @property
    def shared(self) -> bool:
        """Whether other drivers may be at work on the same searches."""
        return self._claims is not None

    def searches(self) -> list[str]:
        """Names of all searches that the database has."""
        with self._errors():
            return [study.study_name for study in self._storage.get_all_studies()]

    def open(self, search: str, identity: Mapping[str, Any] | None = None) -> None:
        """Read what is recorded of a search.

        Args:
            search: its name.
            identity: what decides the search's course, as plain data; not what may grow. None takes whatever is there.

        Raises:
            StorageError: the search in the database has another identity (the message says where they differ), or is
                damaged.
        """
        with self._errors():
            study = self._study_id(self._prefix + search)
            self._studies[search] = study
            if identity is not None:
                self._check(search, study, dict(identity))
        self.refresh(search)
        if not self.shared:
            self._take_up(search)

    def has(self, prefix: str) -> bool:
        """Whether a search whose name begins so was ever opened, by whichever driver."""
        with self._errors():
            names = [study.study_name for study in self._storage.get_all_studies()]
        return any(name.startswith(self._prefix + prefix) for name in names)

    def trials(self, search: str) -> list[Trial]:
        """All trials of a search in order, ended or not, as last read."""
        return list(self._trials[search])

    def refresh(self, search: str) -> None:
        """Read what other drivers have written since.

        Raises:
            StorageError: a row that is not what this class writes.
        """
        known = self._trials.get(search, [])
        rows, trials = [], []
        places: set[tuple[int, int]] = set()
        sizes: dict[int, int] = {}
        with self._errors(), self._intact(search):
            frozen = self._storage.get_all_trials(self._studies[search], deepcopy=False)
            asked = self._storage.get_study_user_attrs(self._studies[search]).get("batch")
        for row in frozen:
            number = len(trials)
            old = known[number] if number < len(known) and self._rows[search][number] == row._trial_id else None
            trial = old if old is not None and old.result is not None else self._read(search, number, row)
            place = trial.batch, row.user_attrs["index"]
            if place in places:  # two drivers wrote the batch, of which one was taken for dead: the first row counts
                continue
            size = sizes.setdefault(trial.batch, row.user_attrs["batch_size"])
            if size != row.user_attrs["batch_size"] or place[1] not in range(size):
                raise self._damaged(search, f"trial {number} has no place in a batch of {size}")
            places.add(place)
            trials.append(trial)
            rows.append(row._trial_id)
        self._rows[search], self._trials[search], self._places[search] = rows, trials, places
        self._batch[search] = self._last_batch(search, asked, sizes)

    def missing(self, search: str) -> int:
        """How many trials of the last batch are not written: a kill in the middle of writing it leaves a part."""
        batch, there = self._batch[search], self._places[search]
        return sum((batch.number, index) not in there for index in range(len(batch.runs))) if batch else 0

    def add_batch(self, search: str, proposals: Sequence[Proposal], runs: Sequence[str]) -> None:
        """Write a batch: what it is, then each of its trials as a waiting one.

        Args:
            search: its name.
            proposals: of the whole batch.
            runs: ids of their runs.
        """
        there = self._trials[search]
        number = there[-1].batch + 1 if there else 0
        batch = self._batch[search] = _Batch(number=number, proposals=tuple(proposals), runs=tuple(runs))
        with self._errors():
            self._storage.set_study_user_attr(self._studies[search], "batch", batch.to_plain())
        self.complete(search)

    def complete(self, search: str) -> None:
        """Write the trials of the last batch that are missing, as they were asked for when it was written."""
        batch, there = self._batch[search], self._trials[search]
        assert batch is not None
        for index, (proposal, run) in enumerate(zip(batch.proposals, batch.runs, strict=True)):
            if (batch.number, index) in self._places[search]:
                continue
            trial = Trial(**dict(proposal), number=len(there), batch=batch.number, run=run)
            with self._errors():
                if self._claims is not None and not self._claims.hold(self._prefix + search, _PLAN):
                    break  # taken for dead: another driver writes the rest
                row = self._storage.create_new_trial(self._studies[search], _row(trial, index, len(batch.runs)))
            self._rows[search].append(row)
            self._places[search].add((batch.number, index))
            there.append(trial)
        if self.shared:
            self.refresh(search)

    def plan(self, search: str) -> bool:
        """Claim the writing of the next batch; False while another driver has it, or has written it since."""
        if self._claims is None:
            return True
        before = len(self._trials[search])
        with self._errors():
            if not self._claims.take(self._prefix + search, _PLAN):
                return False
        self.refresh(search)
        if len(self._trials[search]) > before:
            self.planned(search)
            return False
        return True

    def planned(self, search: str) -> None:
        """Let go of the claim of `plan`."""
        if self._claims is not None:
            with self._errors():
                self._claims.drop(self._prefix + search, _PLAN)

    def begin(self, search: str, trial: Trial) -> bool:
        """Claim a trial and mark it as running; False if another driver has it, or has finished it since."""
        with self._errors():
            if self._claims is not None:
                if not self._claims.take(self._prefix + search, str(trial.number)):
                    return False
                self.refresh(search)
                if self._trials[search][trial.number].result is not None:  # by whoever had the claim until just now
                    self._claims.drop(self._prefix + search, str(trial.number))
                    return False
            self._storage.set_trial_state_values(self._rows[search][trial.number], TrialState.RUNNING)
        self.running.add((search, trial.number))
        return True

    def end(self, search: str, trial: Trial, result: RunResult) -> Trial | None:
        """Keep a result; the trial with the result that counts, or None if another driver has taken it over."""
        key = str(trial.number)
        self.running.discard((search, trial.number))
        with self._errors():
            if self._claims is not None and (
                not self._claims.hold(self._prefix + search, key) or self._trials[search][trial.number].run != trial.run
            ):
                # This driver was taken for dead: what it has is the other's by now, and counts once.
                self.refresh(search)
                found = self._trials[search][trial.number]
                return found if found.result is not None else None
            if result.status == "failed":
                self._wait_again([(search, trial.number)])
            else:
                self._write_result(self._rows[search][trial.number], result)
            if self._claims is not None:
                self._claims.drop(self._prefix + search, key)
        ended = trial.model_copy(update={"result": result})
        if result.status != "failed":
            self._trials[search][trial.number] = ended
        return ended

    def answer(self, search: str, limits: Mapping[str, Any]) -> SearchResult | None:
        """What the search ended with, if it has ended within these limits and no trial was added or ended since."""
        with self._errors(), self._intact(search):
            kept = self._storage.get_study_user_attrs(self._studies[search]).get("answer")
        if kept is None:
            return None
        try:
            if kept["limits"] != json.loads(json.dumps(dict(limits))) or kept["seen"] != self._seen(search):
                return None
            answer = SearchResult.model_validate(kept["result"])
        except (KeyError, TypeError, ValidationError):
            raise self._damaged(search, "its answer is not one") from None
        if not any(trial.params == answer.best for trial in self._trials[search]):
            raise self._damaged(search, "its answer is none of its trials")
        return answer

    def keep_answer(self, search: str, limits: Mapping[str, Any], result: SearchResult) -> None:
        """Write down what a search ended with: another processor does not choose again between equal points."""
        plain = result.model_copy(update={"trials": ()}).to_plain()
        answer = {"limits": dict(limits), "seen": self._seen(search), "result": plain}
        with self._errors():
            self._storage.set_study_user_attr(self._studies[search], "answer", json.loads(json.dumps(answer)))

    def beat(self) -> None:
        """Keep this driver's claims; called now and then, it writes only when it is time."""
        if self._claims is not None and time.monotonic() - self._beat > self._beat_every:
            with self._errors():
                self._claims.beat()
            self._beat = time.monotonic()

    def leave(self) -> None:
        """Let go of this driver's claims, so that others need not wait until they lapse, and of the file."""
        with self._errors():
            self._wait_again(sorted(self.running))
            if self._claims is not None:
                self._claims.drop_all()
            # SQLite puts its log into the file with the last connection that closes.
            self._backend.scoped_session.remove()
            self._backend.engine.dispose()

    def _take_up(self, search: str) -> None:
        """What a driver left that is gone: trials that it had begun wait again, results that it wrote are theirs."""
        for trial, row in zip(self._trials[search], self._rows[search], strict=True):
            with self._errors():
                if trial.result is None:
                    if self._storage.get_trial(row).state == TrialState.RUNNING:
                        self._storage.set_trial_state_values(row, TrialState.WAITING)
                elif not self._storage.get_trial(row).state.is_finished():
                    self._write_result(row, trial.result)

    def _wait_again(self, trials: Sequence[tuple[str, int]]) -> None:
        """Mark trials as waiting: begun, and not ended."""
        for search, number in trials:
            self._storage.set_trial_state_values(self._rows[search][number], TrialState.WAITING)
            self.running.discard((search, number))

    def _write_result(self, row: int, result: RunResult) -> None:
        self._storage.set_trial_user_attr(row, "result", result.to_plain())
        values = None if result.score is None else [result.score]
        # It was claimed by nobody else, but one that was taken for dead may have written it a moment before.
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_state_values(row, _STATES[result.status], values)

    def _last_batch(self, search: str, asked: Any, sizes: Mapping[int, int]) -> _Batch | None:
        """The last batch as it was asked for, checked against the rows that there are."""
        last, there = max(sizes, default=-1), Counter(batch for batch, _ in self._places[search])
        for number, size in sizes.items():
            if there[number] < size and (asked is None or number < last):
                raise self._damaged(search, f"a part of batch {number} is missing")
        if asked is None:
            return None
        try:
            batch = _Batch.model_validate(asked)
        except ValidationError as error:
            raise self._damaged(search, f"its last batch: {first_problem(error)}") from None
        if len(batch.runs) != len(batch.proposals) or (batch.number, len(batch.runs)) not in (
            (last, sizes.get(last)),
            (last + 1, len(batch.runs)),
        ):
            raise self._damaged(search, f"its last batch, {batch.number}, is not that of its rows")
        return batch

    def _seen(self, search: str) -> list[int]:
        trials = self._trials[search]
        return [len(trials), sum(trial.result is not None for trial in trials)]

    def _read(self, search: str, number: int, row: FrozenTrial) -> Trial:
        """A row as a trial, checked against what Optuna shows of it."""
        attributes = row.user_attrs
        try:
            plain = dict(attributes["proposal"])
            # The result is written a moment before the state.
            ended = row.state.is_finished() or "result" in attributes
            result = RunResult.model_validate(attributes["result"]) if ended else None
            trial = Trial.model_validate(
                {**plain, "number": number, "batch": attributes["batch"], "run": attributes["run"], "result": result}
            )
            if not isinstance(attributes["batch_size"], int) or attributes["batch_size"] < 1:
                raise ValueError("its batch has no size")
            if not isinstance(attributes["index"], int):
                raise ValueError("it has no place in its batch")
            if trial.params != row.params:
                raise ValueError("its parameters are not those of its proposal")
            shown = (row.state, row.value)
            if row.state.is_finished() and result and shown != (_STATES.get(result.status), result.score):
                raise ValueError("its state or value is not that of its result")
        except ValidationError as error:
            raise self._damaged(search, f"trial {number}: {first_problem(error)}") from None
        except KeyError as error:
            raise self._damaged(search, f"trial {number} lacks {error.args[0]}") from None
        except (TypeError, ValueError) as error:
            raise self._damaged(search, f"trial {number}: {error}") from None
        return trial

    @contextmanager
    def _intact(self, search: str) -> Iterator[None]:
        """Of rows that were changed, Optuna raises whatever it stumbles over."""
        try:
            yield
        except (
            ArithmeticError,
            AssertionError,
            AttributeError,
            LookupError,
            RecursionError,
            TypeError,
            ValueError,
        ) as e:
            what = f"{type(e).__name__}: {e}".partition("\n")[0]
            raise self._damaged(search, f"a row cannot be read ({what[:200]})") from None

    def _damaged(self, search: str, what: str) -> StorageError:
        return StorageError(
            f"{self.name}: search {search} is damaged, or of another version of rlrs: {what}; move the database away, "
            "and the search begins again"
        )

    def _study_id(self, name: str) -> int:
        try:
            study = self._storage.create_new_study([StudyDirection.MINIMIZE], name)
        except optuna.exceptions.DuplicatedStudyError:
            return self._storage.get_study_id_from_name(name)
        self._storage.set_study_system_attr(study, "study:metric_names", ["training loss, nats per token"])
        return study

    def _check(self, search: str, study: int, mine: dict[str, Any]) -> None:
        with self._intact(search):
            theirs = self._storage.get_study_user_attrs(study).get("identity")
        if theirs is None:
            self._storage.set_study_user_attr(study, "identity", json.loads(json.dumps(mine)))
        elif (difference := first_difference(theirs, json.loads(json.dumps(mine)))) is not None:
            raise StorageError(
                f"{self.name}: search {search} there is another one: {difference}; take another folder "
                "(--out) or database"
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
        except (UnicodeDecodeError, LookupError) as error:  # of text that was changed, and of rows that are gone
            raise StorageError(
                f"{self.name}: the database of trials is damaged: {printable(str(error), 200)}; move it away, and the "
                "search begins again"
            ) from None


def first_difference(theirs: Any, mine: Any, at: str = "") -> str | None:
    """The first setting in which two studies differ, in words."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        for key in dict.fromkeys([*mine, *theirs]):
            found = first_difference(theirs.get(key), mine.get(key), f"{at}.{key}" if at else str(key))
            if found:
                return found
        return None
    return None if theirs == mine else f"{at or 'its identity'} is {shown(theirs)} there and {shown(mine)} here"


def optuna_url(where: Path | str | sqlalchemy.URL) -> str:
    """The URL of a file or a database as Optuna takes it, which fills in braces as in a template."""
    url = where if isinstance(where, sqlalchemy.URL) else _url(where)
    return url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")


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
        backend = _made(lambda: optuna.storages.RDBStorage(optuna_url(url), engine_kwargs=options))
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


def _row(trial: Trial, index: int, batch_size: int) -> FrozenTrial:
    """A trial as a waiting one of Optuna's."""
    distributions: dict[str, BaseDistribution] = {
        # A parameter that is fixed may be where none is searched: a ratio of 0.
        name: FloatDistribution(min(low, value), max(high, value), log=min(low, value) > 0)
        for name, value, (low, high) in ((name, value, bounds(name)) for name, value in trial.params.items())
    }
    proposal = trial.model_dump(mode="json", include=set(Proposal.model_fields))
    place = {"batch": trial.batch, "index": index, "batch_size": batch_size}
    attributes = {**place, "run": trial.run, "proposal": proposal}
    return optuna.create_trial(
        state=TrialState.WAITING,
        params=trial.params,
        distributions=distributions,
        user_attrs={**attributes, "move": trial.move},
    )
