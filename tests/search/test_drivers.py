"""Several drivers on one study: the same course, nothing trained twice, the dead ones' runs taken over."""

import dataclasses
import math
import multiprocessing
import os
import pathlib
import signal
import sqlite3
import threading
import time

import optuna
import pytest
from sqlalchemy import event
from test_driver import Engine, history, searches, spec_of

import postgresql
from rlrs.records import Proposal, RunResult
from rlrs.search import ResponseSurface, SearchTask, Space, StorageError, TrialStore, tune
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
    return history(tune(searches(), engine, TrialStore(tmp_path_factory.mktemp("alone") / "trials.db"))), engine.trained


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
    outcomes = tune(searches(), engine, TrialStore(url, study=study, lapse=lapse))
    pipe.send((engine.trained, history(outcomes)))


def start(url, study, **options):
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=drive, args=(url, study, theirs), kwargs=options, daemon=True)
    process.start()
    return process, mine


@pytest.mark.long
def test_three_drivers_take_the_course_of_one_and_train_nothing_twice(url, alone):
    drivers = [start(url, "three") for _ in range(2)]
    engine = SlowEngine()
    for _, pipe in drivers:
        assert pipe.recv() == "ready"
    for _, pipe in drivers:
        pipe.send("go")
    course = history(tune(searches(), engine, TrialStore(url, study="three")))
    reports = [pipe.recv() for _, pipe in drivers]
    assert course == alone[0]
    assert all(report[1] == course for report in reports)
    trained = [run for part in (engine.trained, *(report[0] for report in reports)) for run in part]
    assert sorted(trained) == sorted(alone[1])
    assert sum(bool(part) for part in (engine.trained, *(report[0] for report in reports))) >= 2
    storage = TrialStore(url, study="look")._storage
    for name in ("one", "two"):
        trials = optuna.load_study(study_name=f"three/proxy/{name}", storage=storage).trials
        assert {trial.state.name for trial in trials} == {"COMPLETE"}


@pytest.mark.long
@needs_postgresql
def test_runs_of_a_driver_that_was_killed_are_taken_over(postgres, alone):
    url = postgres
    dead, pipe = start(url, "killed", stall=True)
    assert pipe.recv() == "stalled"
    os.kill(dead.pid, signal.SIGKILL)
    engine = SlowEngine()
    assert history(tune(searches(), engine, TrialStore(url, study="killed", lapse=1.0))) == alone[0]
    assert sorted(engine.trained) == sorted(alone[1])


def test_a_claim_is_one_drivers_until_its_beat_stops(tmp_path):
    database = TrialStore(tmp_path / "claims.db")._storage._backend.engine
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
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    late, other = (TrialStore(url, study="s", lapse=0.1) for _ in range(2))
    result = RunResult(status="finished", steps=10, score=1.0, valid_loss=None, tokens=20, seconds=0.1)
    late.open("x")
    proposal = Proposal(params={"lr": 1.0, "embedding.start": 1.0}, move="start")
    assert late.plan("x")
    late.add_batch("x", [proposal], ["abc"])
    late.planned("x")
    other.open("x")
    (trial,) = other.trials("x")
    assert trial == late.trials("x")[0]
    assert late.begin("x", trial)
    assert not other.begin("x", trial)
    time.sleep(0.2)
    assert other.begin("x", trial)
    assert late.end("x", trial, result) is None
    assert other.end("x", trial, result).result == result
    assert not late.begin("x", trial)
    assert late.trials("x")[0].result == result
    trials = optuna.load_study(study_name="s/x", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"]


def test_one_driver_at_a_time_writes_a_batch_and_a_dead_ones_part_is_completed(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    dead, other = (TrialStore(url, study="s", lapse=0.1) for _ in range(2))
    batch = [Proposal(params={"lr": 0.1 * n}, move="m") for n in (1, 2, 3)]
    dead.open("x")
    other.open("x")
    assert dead.plan("x")
    assert not other.plan("x")
    create, written = dead._storage.create_new_trial, []

    def killed(*arguments):
        if written:
            raise KeyboardInterrupt
        written.append(create(*arguments))
        return written[-1]

    dead._storage.create_new_trial = killed
    with pytest.raises(KeyboardInterrupt):
        dead.add_batch("x", batch, ["a", "b", "c"])
    other.refresh("x")
    assert other.missing("x") == 2
    assert not other.plan("x")  # its claim has a beat that was not seen before
    time.sleep(0.2)
    assert other.plan("x")
    other.complete("x")
    assert [(t.number, t.batch, t.run) for t in other.trials("x")] == [(0, 0, "a"), (1, 0, "b"), (2, 0, "c")]
    assert other.missing("x") == 0


def test_a_batch_that_two_drivers_wrote_counts_once(tmp_path):
    """One is suspended while it writes, taken for dead, and goes on: rows that were there first count."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    slow, other = (TrialStore(url, study="s", lapse=0.1) for _ in range(2))
    slow.open("x")
    other.open("x")
    assert slow.plan("x")
    create, calls = slow._storage.create_new_trial, []

    def suspended(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # it held its claim a moment before
            other.refresh("x")
            assert not other.plan("x")
            time.sleep(0.2)
            assert other.plan("x")
            other.complete("x")
        return create(*arguments)

    slow._storage.create_new_trial = suspended
    slow.add_batch("x", [Proposal(params={"lr": 0.1 * n + 1e-9}, move="m") for n in (1, 2, 3)], ["A", "B", "C"])
    assert len(calls) == 2
    other.refresh("x")
    assert [trial.run for trial in other.trials("x")] == [trial.run for trial in slow.trials("x")] == ["A", "B", "C"]
    assert slow.missing("x") == other.missing("x") == 0


def bowls():
    """The default method on twelve parameters with noise: what it asks for hangs on many roundings."""
    start = {"lr": 1.0, "embedding.start": 1.0}
    start |= {f"{c}.{end}": 1.0 for c in ("attention", "experts", "router") for end in ("start", "end")}
    return {"proxy/one": SearchTask(ResponseSurface(Space.around(start), 24, 0), wide_spec, limits={"trials": 24})}


def wide_spec(point):
    ratios = {c: [(0.0, point[f"{c}.start"]), (1.0, point[f"{c}.end"])] for c in ("attention", "experts", "router")}
    return dataclasses.replace(spec_of(point), ratios={**spec_of(point).ratios, **ratios})


class WideEngine(SlowEngine):
    def next(self, tick=None, timeout=None):
        time.sleep(0.02)
        if len(self.trained) >= self.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        key, spec, _ = self.jobs.pop()
        self.trained.append(spec.id)
        ratios = [ratio for knots in spec.ratios.values() for _, ratio in knots]
        loss = 3 + 0.05 * math.log(spec.lr / 0.3) ** 2 + 0.02 * sum((math.log(r) - 0.7) ** 2 for r in ratios)
        loss += 0.01 * math.sin(1e3 * spec.lr * math.prod(ratios))
        return key, RunResult(status="finished", steps=10, score=loss, valid_loss=None, tokens=20, seconds=0.1)


def drive_kernel(url, pipe, die_after):
    engine = WideEngine(die_after)
    results = tune(bowls(), engine, TrialStore(url, study="kernels", lapse=1.0))
    pipe.send((engine.trained, history(results)))


def start_under(kernel, url, die_after=10**9):
    """A driver whose numpy uses the stated BLAS kernel."""
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    before = os.environ.get("OPENBLAS_CORETYPE")
    os.environ["OPENBLAS_CORETYPE"] = kernel
    try:
        process = context.Process(target=drive_kernel, args=(url, theirs, die_after), daemon=True)
        process.start()
    finally:
        os.environ.pop("OPENBLAS_CORETYPE")
        if before is not None:
            os.environ["OPENBLAS_CORETYPE"] = before
    theirs.close()
    return process, mine


@pytest.mark.long
@needs_postgresql
def test_killed_under_one_blas_kernel_continued_under_another_and_joined_under_a_third(postgres):
    """Proposals are read, not computed again: nothing is trained twice, and the rows are the runs."""
    dead, _ = start_under("Prescott", postgres, die_after=12)
    dead.join(60)
    assert dead.exitcode == -signal.SIGKILL
    finished = [t.user_attrs["run"] for t in kernel_rows(postgres) if t.state.name == "COMPLETE"]
    assert len(finished) >= 11
    drivers = [start_under("Haswell", postgres)]
    drivers.append(start_under("Zen" if "avx2" in cpu_flags() else "Nehalem", postgres))
    reports = [pipe.recv() for _, pipe in drivers]
    trained = [run for report in reports for run in report[0]]
    assert not set(trained) & set(finished)
    assert len(set(trained)) == len(trained)
    rows = kernel_rows(postgres)
    assert len(rows) == len({t.user_attrs["run"] for t in rows}) == len(finished) + len(trained)
    assert reports[0][1] == reports[1][1]
    points = [tuple(round(math.log(v), 3) for v in t.params.values()) for t in rows]
    assert len(set(points)) == len(points)


def kernel_rows(url):
    storage = TrialStore(url, study="look")._storage  # which keeps no connection
    return optuna.load_study(study_name="kernels/proxy/one", storage=storage).trials


def cpu_flags():
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def test_a_search_of_another_space_or_data_is_refused_and_the_difference_named(url):
    TrialStore(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": [1, 2]}})
    TrialStore(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": (1, 2)}})
    with pytest.raises(
        StorageError, match=r"search proxy/one there is another one: data_hash is 'abc' there and 'def'"
    ):
        TrialStore(url, study="refused").open("proxy/one", {"data_hash": "def", "space": {"lr": [1, 2]}})
    with pytest.raises(StorageError, match=r"space.lr is \[1, 2\] there and \[1, 3\] here"):
        TrialStore(url, study="refused").open("proxy/one", {"data_hash": "abc", "space": {"lr": [1, 3]}})


def test_a_locked_database_is_waited_for_and_then_said(tmp_path):
    path = tmp_path / "trials.db"
    trials = TrialStore(path, busy=0.5)
    lock = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    lock.execute("begin immediate")
    with pytest.raises(StorageError, match=r"another process has had it locked for more than 0.5 s"):
        trials.open("proxy/one")
    patient = TrialStore(path, busy=30)
    threading.Timer(0.5, lambda: lock.execute("rollback")).start()
    engine = Engine()
    tune(searches(2), engine, patient)
    assert len(engine.trained) == 4
    lock.close()


def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_room(tmp_path, alone):
    path = tmp_path / "trials.db"
    trials, first = TrialStore(path), Engine()
    database = trials._storage._backend.engine
    with database.connect() as connection:
        pages = connection.exec_driver_sql("pragma page_count").scalar()
    database.dispose()
    event.listen(database, "connect", lambda raw, _: raw.execute(f"pragma max_page_count={pages + 3}").close())
    with pytest.raises(StorageError, match="database or disk is full"):
        tune(searches(), first, trials)
    second = Engine()
    assert history(tune(searches(), second, TrialStore(path))) == alone[0]
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
        TrialStore(where, study="x")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
