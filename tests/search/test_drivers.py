"""Several drivers on one study: the same course, nothing trained twice, the dead ones' runs taken over."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time

import optuna
import postgresql
import pytest
from sqlalchemy import event
from test_driver import Engine, history, searches

from rlrs.search import StorageError, Trials, tune
from rlrs.search.claims import Claims

needs_postgresql = pytest.mark.skipif(
    postgresql.BINARIES is None, reason="no PostgreSQL server: apt-get install postgresql"
)


@pytest.fixture(scope="module")
def postgres():
    with postgresql.server() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgresql)])
def url(request, tmp_path):
    """A database of each kind; studies in it are told apart by name."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return request.getfixturevalue("postgres")


class SlowEngine(Engine):
    """Two runs at a time, each of which takes a moment."""

    slots = 2

    def next(self, tick=None, timeout=None):
        time.sleep(0.02)
        return super().next(tick, timeout)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    engine = Engine()
    return history(tune(searches(), engine, Trials(tmp_path_factory.mktemp("alone") / "trials.db"))), engine.trained


def drive(url, study, pipe, stall=False, lapse=60.0):
    """A driver in a process of its own; sends what it trained and the course that it saw."""
    engine = SlowEngine()
    if stall:

        def next_(tick=None, timeout=None):
            pipe.send("stalled")
            time.sleep(1000)

        engine.next = next_
    else:
        pipe.send("ready")
        pipe.recv()
    outcomes = tune(searches(), engine, Trials(url, study=study, lapse=lapse))
    pipe.send((engine.trained, history(outcomes)))


def start(url, study, **options):
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=drive, args=(url, study, theirs), kwargs=options, daemon=True)
    process.start()
    return process, mine


def test_three_drivers_take_the_course_of_one_and_train_nothing_twice(url, alone):
    drivers = [start(url, "three") for _ in range(2)]
    engine = SlowEngine()
    for _, pipe in drivers:
        assert pipe.recv() == "ready"
    for _, pipe in drivers:
        pipe.send("go")
    course = history(tune(searches(), engine, Trials(url, study="three")))
    reports = [pipe.recv() for _, pipe in drivers]
    assert course == alone[0]
    assert all(report[1] == course for report in reports)
    trained = [run for part in (engine.trained, *(report[0] for report in reports)) for run in part]
    assert sorted(trained) == sorted(alone[1])
    assert sum(bool(part) for part in (engine.trained, *(report[0] for report in reports))) >= 2
    storage = Trials(url, study="look")._storage
    for name in ("one", "two"):
        trials = optuna.load_study(study_name=f"three/proxy/{name}", storage=storage).trials
        assert {trial.state.name for trial in trials} == {"COMPLETE"}


@needs_postgresql
def test_runs_of_a_driver_that_was_killed_are_taken_over(postgres, alone):
    url = postgres
    dead, pipe = start(url, "killed", stall=True)
    assert pipe.recv() == "stalled"
    os.kill(dead.pid, signal.SIGKILL)
    engine = SlowEngine()
    assert history(tune(searches(), engine, Trials(url, study="killed", lapse=1.0))) == alone[0]
    assert sorted(engine.trained) == sorted(alone[1])


def test_a_claim_is_one_drivers_until_its_beat_stops(tmp_path):
    database = Trials(tmp_path / "claims.db")._storage._backend.engine
    one, two = Claims(database, lapse=0.3), Claims(database, lapse=0.3)
    assert one.take("study", "run")
    assert not two.take("study", "run")
    time.sleep(0.4)
    one.beat()
    assert not two.take("study", "run")  # it lives
    time.sleep(0.4)
    assert two.take("study", "run")
    assert two.take("study", "run")
    assert not one.hold("study", "run")
    one.drop("study", "run")  # does nothing: it is not its own
    assert two.hold("study", "run")
    two.drop_all()
    assert one.take("study", "run")


def test_a_driver_taken_for_dead_does_not_count_its_run_a_second_time(tmp_path):
    from rlrs.records import RunResult
    from rlrs.search import Proposal

    url = f"sqlite:///{tmp_path / 'shared.db'}"
    late, other = (Trials(url, study="s", lapse=0.1) for _ in range(2))
    search = searches()["proxy/one"]
    proposal = Proposal({"lr": 1.0, "embedding.start": 1.0}, "start")
    spec = search.run(proposal)
    result = RunResult(status="finished", steps=10, score=1.0, valid_loss=None, tokens=20, seconds=0.1)
    late.open("x")
    other.open("x")
    assert late.begin("x", spec)
    assert not other.begin("x", spec)
    time.sleep(0.2)
    assert other.begin("x", spec)
    assert late.end("x", proposal, spec, result) is None
    assert other.end("x", proposal, spec, result) == result
    assert not late.begin("x", spec)
    assert late.finished("x", spec) == result
    trials = optuna.load_study(study_name="s/x", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"]


def test_a_search_of_another_space_or_data_is_refused_and_the_difference_named(url):
    Trials(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": [1, 2]}})
    Trials(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": (1, 2)}})
    with pytest.raises(
        StorageError, match=r"search proxy/one there is another one: data_hash is 'abc' there and 'def'"
    ):
        Trials(url, study="refused").open("proxy/one", {"data_hash": "def", "space": {"lr": [1, 2]}})
    with pytest.raises(StorageError, match=r"space.lr is \[1, 2\] there and \[1, 3\] here"):
        Trials(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": [1, 3]}})


def test_a_locked_database_is_waited_for_and_then_said(tmp_path):
    path = tmp_path / "trials.db"
    trials = Trials(path, busy=0.5)
    lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    lock.execute("begin immediate")
    with pytest.raises(StorageError, match=r"another process has had it locked for more than 0.5 s"):
        trials.open("proxy/one")
    patient = Trials(path, busy=30)
    threading.Timer(0.5, lambda: lock.execute("rollback")).start()
    engine = Engine()
    tune(searches(2), engine, patient)
    assert len(engine.trained) == 4
    lock.close()


def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_room(tmp_path, alone):
    path = tmp_path / "trials.db"
    trials, first = Trials(path), Engine()
    database = trials._storage._backend.engine
    with database.connect() as connection:
        pages = connection.exec_driver_sql("pragma page_count").scalar()
    database.dispose()
    event.listen(database, "connect", lambda raw, _: raw.execute(f"pragma max_page_count={pages + 3}").close())
    with pytest.raises(StorageError, match="database or disk is full"):
        tune(searches(), first, trials)
    second = Engine()
    assert history(tune(searches(), second, Trials(path))) == alone[0]
    # The run whose result found no room is trained again; no other.
    assert len(first.trained) + len(second.trained) <= len(alone[1]) + 1


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("nonsense", "storage should be a database URL"),
        ("nosuch://host/x", "no kind of database is called 'nosuch'"),
        ("postgresql+psycopg://rlrs:secret@127.0.0.1:1/x", "the database of trials cannot be used: connection failed"),
    ],
)
def test_a_database_that_is_not_there_is_one_line_without_its_password(where, message):
    with pytest.raises(StorageError, match=message) as caught:
        Trials(where, study="x")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
