import contextlib
import math
import sqlite3

import optuna
import pytest
from driving import Fixed
from sqlalchemy import event
from sqlalchemy.engine import Engine as Database

from rlrs.records import Proposal, Pruning, RunResult
from rlrs.search import (
    Budget,
    Interrupted,
    LocalSearch,
    SearchTask,
    Space,
    StorageError,
    TrialStore,
    make_method,
    run_for,
    tune,
)
from rlrs.settings import ModelConfig, SearchConfig, TrainingConfig
from rlrs.training import RunSpec


def spec_of(point):
    return RunSpec(
        model=ModelConfig(d_model=8, n_heads=2),
        training=TrainingConfig(),
        steps=10,
        batch_size=2,
        seed=0,
        lr=point["lr"],
        final_fraction=0.1,
        ratios={"embedding": [(0.0, point["embedding.start"]), (1.0, 1.0)]},
        data_hash="abc",
    )


def loss_of(spec):
    return math.log(spec.lr / 0.3) ** 2 + math.log(spec.ratios["embedding"][0][1] / 7) ** 2


class KilledError(Exception):
    pass


class Engine:
    """Stands in for processes: answers from a formula, last submitted first, and dies after some runs."""

    def __init__(self, die_after=10**9, diverge_above=math.inf):
        self.jobs, self.trained, self.steps = [], [], 0
        self.die_after, self.diverge_above = die_after, diverge_above

    @property
    def pending(self):
        return len(self.jobs)

    def submit(self, key, spec, folder=None, *, validate=True, prune=None):
        self.jobs.append((key, spec, prune))

    def next(self, tick=None, timeout=None):
        if len(self.trained) >= self.die_after:
            raise KilledError
        key, spec, prune = self.jobs.pop()
        self.trained.append(spec.id)
        loss, rungs = loss_of(spec), ()
        for step, limit in prune.rungs if prune else ():
            rungs += ((step, round(loss, 1)),)
            if limit is not None and loss > limit:
                ended = {"status": "pruned", "steps": step, "score": None, "reason": "above", "rungs": rungs}
                return key, RunResult(valid_loss=None, tokens=20, seconds=0.1, **ended)
        if spec.lr > self.diverge_above:
            return key, RunResult(
                status="diverged",
                steps=3,
                score=None,
                valid_loss=None,
                tokens=6,
                seconds=0.1,
                diverged_at=4,
                reason="nan",
            )
        ended = {"status": "finished", "steps": spec.steps, "score": loss, "rungs": rungs}
        return key, RunResult(valid_loss=None, tokens=20, seconds=0.1, **ended)


def searches(budget=20):
    start = {"lr": 1.0, "embedding.start": 1.0}
    return {
        f"proxy/{name}": SearchTask(
            LocalSearch(Space.around(start), (0.2, 2 / 3, 1.5, 5.0), sweeps=9, budget=budget, seed=seed),
            spec_of,
            limits={"trials": budget},
        )
        for seed, name in enumerate(("one", "two"))
    }


def history(results):
    return {
        name: [(t.params, t.score) for t in r.trials] + [(r.best, r.score, r.reason)] for name, r in results.items()
    }


def rows(path):
    storage = f"sqlite:///{path}"
    return [
        t
        for s in optuna.get_all_study_summaries(storage)
        for t in optuna.load_study(study_name=s.study_name, storage=storage).trials
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    engine = Engine()
    results = tune(searches(), engine, TrialStore(tmp_path_factory.mktemp("whole") / "trials.db"))
    return history(results), engine.trained


def test_searches_side_by_side_each_find_their_way(whole):
    for course in whole[0].values():
        assert course[-1][1] < 0.5
        assert len(course) - 1 <= 20


@pytest.mark.parametrize("die_after", [0, 1, 4, 5, 13, 23])
def test_started_again_after_a_kill_it_takes_the_same_course_and_repeats_no_finished_run(tmp_path, whole, die_after):
    first = Engine(die_after)
    with pytest.raises(KilledError):
        tune(searches(), first, TrialStore(tmp_path / "trials.db"))
    second = Engine()
    results = tune(searches(), second, TrialStore(tmp_path / "trials.db"))
    assert history(results) == whole[0]
    assert len(first.trained) == die_after
    assert len(first.trained) + len(second.trained) == len(whole[1]) == len(rows(tmp_path / "trials.db"))


def test_a_finished_search_trains_nothing_again(tmp_path, whole):
    for _ in range(2):
        engine = Engine()
        results = tune(searches(), engine, TrialStore(tmp_path / "trials.db"))
    assert engine.trained == []
    assert history(results) == whole[0]


def test_a_finished_search_is_extended_by_a_larger_budget_and_what_it_had_stays(tmp_path, whole):
    short, longer = Engine(), Engine()
    tune(searches(9), short, TrialStore(tmp_path / "trials.db"))
    results = tune(searches(20), longer, TrialStore(tmp_path / "trials.db"))
    assert history(results) == whole[0]
    assert sorted(short.trained + longer.trained) == sorted(whole[1])


def test_a_batch_is_in_the_database_before_any_of_it_is_trained(tmp_path):
    with pytest.raises(KilledError):
        tune(searches(6), Engine(0), TrialStore(tmp_path / "trials.db"))
    assert [trial.state.name for trial in rows(tmp_path / "trials.db")] == ["WAITING"] * 10
    assert all(trial.params and "result" not in trial.user_attrs for trial in rows(tmp_path / "trials.db"))


def test_every_trial_is_in_optunas_storage_once_with_its_value_and_move(tmp_path):
    tune(searches(6), Engine(diverge_above=2.0), TrialStore(tmp_path / "trials.db"))
    study = optuna.load_study(study_name="proxy/one", storage=f"sqlite:///{tmp_path / 'trials.db'}")
    assert len(study.trials) == 6
    assert len({trial.user_attrs["run"] for trial in study.trials}) == 6
    for trial in study.trials:
        diverged = trial.params["lr"] > 2.0
        assert trial.state.name == ("FAIL" if diverged else "COMPLETE")
        assert trial.user_attrs["result"]["status"] == ("diverged" if diverged else "finished")
        assert "move" in trial.user_attrs
    assert any(trial.params["lr"] > 2.0 for trial in study.trials)


def test_a_diverged_run_is_not_trained_again_either(tmp_path):
    for expected in (True, False):
        engine = Engine(diverge_above=2.0)
        tune(searches(6), engine, TrialStore(tmp_path / "trials.db"))
        assert bool(engine.trained) is expected


class GivesUp(Engine):
    """Gives up every third run of its first so many."""

    def __init__(self, first):
        super().__init__()
        self.first = first

    def next(self, tick=None, timeout=None):
        key, result = super().next(tick, timeout)
        if len(self.trained) <= self.first and len(self.trained) % 3 == 0:
            failed = {"status": "failed", "steps": 1, "score": None, "reason": "given up after 2 attempts: killed"}
            return key, RunResult(valid_loss=None, tokens=0, seconds=0.1, **failed)
        return key, result


def test_runs_given_up_are_tried_again_at_the_next_start_and_then_their_result_counts(tmp_path):
    lives = [GivesUp(10**9), GivesUp(0), Engine()]
    ends = [tune(searches(12), engine, TrialStore(tmp_path / "trials.db")) for engine in lives]
    first = {t.run for result in ends[0].values() for t in result.trials if t.result.status == "failed"}
    assert len(first) >= 6
    assert first <= set(lives[1].trained)
    assert lives[2].trained == []
    assert history(ends[2]) == history(ends[1])
    assert {t.result.status for result in ends[2].values() for t in result.trials} == {"finished"}
    assert {trial.state.name for trial in rows(tmp_path / "trials.db")} == {"COMPLETE"}


def test_the_file_alone_holds_all_trials_once_a_search_has_ended(tmp_path):
    store = TrialStore(tmp_path / "trials.db")
    tune(searches(6), Engine(), store)
    assert [path.name for path in tmp_path.iterdir()] == ["trials.db"]
    # Kept in a write-ahead log while a search is at work: one wait for the disk per transaction.
    assert (tmp_path / "trials.db").read_bytes()[18:20] == b"\x02\x02"


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "trials.db"
    path.write_text("my notes on the trials")
    with pytest.raises(StorageError, match=r"trials.db: not a SQLite database; move it away"):
        TrialStore(path)
    assert path.read_text() == "my notes on the trials"


def test_a_database_of_something_else_is_refused(tmp_path):
    path = tmp_path / "trials.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table studies (a int)")
    connection.close()
    with pytest.raises(StorageError, match="the database of trials cannot be used"):
        TrialStore(path).open("proxy/one")


DAMAGES = {
    "another rate": ("update trial_params set param_value = param_value * 1.5 where param_name = 'lr'", "parameters"),
    "another score": ("update trial_values set value = value - 1", "state or value"),
    "another state": ("update trials set state = 'FAIL' where state = 'COMPLETE'", "state or value"),
    "no result": (
        "update trial_user_attributes set value_json = '{}' where key = 'result'",
        "status: Field required",
    ),
    "a list": ("update trial_user_attributes set value_json = '[[[]]]' where key = 'proposal'", "damaged"),
    "not JSON": ("update trial_user_attributes set value_json = '{{{' where key = 'proposal'", "damaged"),
    "no proposal": ("delete from trial_user_attributes where key = 'proposal'", "lacks proposal"),
    "another run": ("update trial_user_attributes set value_json = '\"abc\"' where key = 'run'", "was run abc"),
    "no size": ("update trial_user_attributes set value_json = '0' where key = 'batch_size'", "batch has no size"),
    "a nan": (
        'update trial_user_attributes set value_json = replace(value_json, \'"score": \', \'"score": 1e999, "x": \')'
        " where key = 'result'",
        "damaged",
    ),
    "no studies": ("delete from studies", "damaged"),
    "another size": (
        "update trial_user_attributes set value_json = '7' where key = 'batch_size' and trial_id = "
        "(select max(trial_id) from trials)",
        "batch",
    ),
    "another place": ("update trial_user_attributes set value_json = '99' where key = 'index'", "no place in a batch"),
    "another batch": ("update study_user_attributes set value_json = '{}' where key = 'batch'", "its last batch"),
    "a row less": (
        "delete from study_user_attributes where key = 'batch'; delete from trials where number = 3; "
        "delete from trial_params where trial_id not in (select trial_id from trials)",
        "a part of batch",
    ),
    "an answer of its own": (
        "update study_user_attributes set value_json = replace(value_json, '\"lr\": ', '\"lr\": 1') "
        "where key = 'answer'",
        "none of its trials",
    ),
    "another answer": ("update study_user_attributes set value_json = '{}' where key = 'answer'", "answer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_database_that_was_changed_is_one_line_and_never_another_result(tmp_path, damage):
    path = tmp_path / "trials.db"
    tune(searches(6), Engine(), TrialStore(path))
    statement, message = DAMAGES[damage]
    with sqlite3.connect(path) as connection:
        for one in statement.split("; "):
            assert connection.execute(one).rowcount
    connection.close()
    with pytest.raises(StorageError, match=message) as caught:
        tune(searches(6), Engine(), TrialStore(path))
    assert "\n" not in str(caught.value)


def test_a_schema_that_is_not_utf8_is_one_line(tmp_path):
    path = tmp_path / "trials.db"
    tune(searches(6), Engine(), TrialStore(path))
    content = path.read_bytes()
    assert b"TABLE trial_params" in content
    path.write_bytes(content.replace(b"TABLE trial_params", b"TABL\xfc trial_params"))
    with pytest.raises(StorageError, match=r"trials\.db: the database of trials is damaged") as caught:
        tune(searches(6), Engine(), TrialStore(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_half_written_batch_is_completed_as_it_was_asked_for_though_more_trials_are(tmp_path, monkeypatch, written):
    create, left = optuna.storages._CachedStorage.create_new_trial, [written]

    def killed(self, study, template_trial=None):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return create(self, study, template_trial)

    one = {"proxy/one": searches(4)["proxy/one"]}
    monkeypatch.setattr(optuna.storages._CachedStorage, "create_new_trial", killed)
    with pytest.raises(KilledError):
        tune(one, Engine(), TrialStore(tmp_path / "trials.db"))
    left[0] = 10**9
    assert len(rows(tmp_path / "trials.db")) == written
    for trials in (9, 9, 12):
        result = tune({"proxy/one": searches(trials)["proxy/one"]}, Engine(), TrialStore(tmp_path / "trials.db"))
        found = rows(tmp_path / "trials.db")
        assert len(found) == len({row.user_attrs["run"] for row in found}) == len(result["proxy/one"].trials) <= trials
        places = [(row.user_attrs["batch"], row.user_attrs["index"]) for row in found]
        assert len(set(places)) == len(places)
    assert len(found) > 4


@pytest.fixture
def kill_at_commit():
    """Kills before the n-th transaction from now is kept; the count of those that were."""
    state = {"left": math.inf, "kept": 0}

    def commit(connection):
        if state["left"] <= 0:
            raise KilledError
        state["left"] -= 1
        state["kept"] += 1

    event.listen(Database, "commit", commit)
    yield state
    event.remove(Database, "commit", commit)


@pytest.mark.long
def test_killed_before_any_transaction_of_the_database_it_goes_on(tmp_path, kill_at_commit):
    def search():
        return {"proxy/one": searches(2)["proxy/one"]}

    engine = Engine()
    course = history(tune(search(), engine, TrialStore(tmp_path / "whole.db")))
    for kept in range(kill_at_commit["kept"]):
        path, first, second = tmp_path / f"{kept}.db", Engine(), Engine()
        kill_at_commit["left"] = kept
        with contextlib.suppress(KilledError):  # the last ones are of leaving
            tune(search(), first, TrialStore(path))
        kill_at_commit["left"] = math.inf
        assert history(tune(search(), second, TrialStore(path))) == course, f"killed after {kept} transactions"
        assert len(first.trained) + len(second.trained) <= len(engine.trained) + 1
        assert len(rows(path)) == len(engine.trained)


def short_first():
    settings = SearchConfig(method="local", fidelity={"steps": 0.5}, retest={"points": 0})
    space = Space.around({"lr": 1.0, "embedding.start": 1.0})
    return SearchTask(
        make_method(space, settings, steps=10, window=5), spec_of, budgets=[Budget(40, "steps", lambda _, n, s: n)]
    )


def test_a_budget_that_ends_before_short_runs_do_leaves_the_best_whole_run(tmp_path):
    result = tune({"proxy/one": short_first()}, Engine(), TrialStore(tmp_path / "trials.db"))["proxy/one"]
    assert [trial.result.steps for trial in result.trials] == [10] + [5] * 5
    assert result.best == result.trials[0].params
    assert result.score == result.trials[0].score
    assert "would pass the budget of 40 steps" in result.reason


@pytest.mark.parametrize(("after", "answers"), [(0, 0), (7, 1)])
def test_ctrl_c_leaves_what_each_search_has_found_and_nothing_that_runs(tmp_path, after, answers):
    class Stopped(Engine):
        def next(self, tick=None, timeout=None):
            if len(self.trained) == after:
                raise KeyboardInterrupt
            return super().next(tick, timeout)

    with pytest.raises(Interrupted) as stopped:
        tune(searches(), Stopped(), TrialStore(tmp_path / "trials.db"))
    found = stopped.value.so_far
    assert len(found) == answers
    assert sum(len(result.trials) for result in found.values()) == after
    for result in found.values():
        assert result.score == min(trial.score for trial in result.trials)
    assert {trial.state.name for trial in rows(tmp_path / "trials.db")} <= {"COMPLETE", "WAITING"}


PRUNE = Pruning(rungs=((4, 0.5), (8, 0.5)), window=2)
NEVER = Pruning(rungs=((4, None), (8, None)), window=2)


def low_fidelity():
    """Shorter, narrower, other seeds, pruned: a method that uses all that a proposal can say."""
    start = {"lr": 0.3, "embedding.start": 7.0}
    worse = {**start, "lr": 3.0}
    first = [
        Proposal(params=start, move="start", prune=NEVER),
        Proposal(params=worse, move="pruned", prune=PRUNE),
        Proposal(params=worse, move="short", steps=5),
        Proposal(params=start, move="narrow", width=4),
        Proposal(params=start, move="seed", seed=3),
    ]
    second = [
        Proposal(params=worse, move="not pruned", memo={"radius": 0.7}),
        Proposal(params=start, move="cheap", steps=5, prune=PRUNE),
    ]
    return {"proxy/one": SearchTask(Fixed(first, second), spec_of)}


@pytest.mark.parametrize("die_after", [0, 1, 2, 3, 4, 5, 6, 7])
def test_trials_of_low_fidelity_are_told_apart_and_read_back_after_a_kill(tmp_path, die_after):
    first, second = Engine(die_after), Engine()
    with contextlib.suppress(KilledError):
        tune(low_fidelity(), first, TrialStore(tmp_path / "trials.db"))
    result = tune(low_fidelity(), second, TrialStore(tmp_path / "trials.db"))["proxy/one"]
    assert len(first.trained) == die_after
    assert len(first.trained) + len(second.trained) == 7
    task = low_fidelity()["proxy/one"]
    specs = {trial.move: run_for(trial, task.spec(trial.params)) for trial in result.trials}
    assert (specs["short"].steps, specs["short"].training.score_steps) == (5, 50)
    assert (specs["narrow"].model.d_model, specs["narrow"].model.n_heads) == (4, 1)
    assert specs["seed"].seed == 3
    assert [(t.batch, t.whole) for t in result.trials] == [
        *[(0, True), (0, True), (0, False), (0, False), (0, False)],
        *[(1, True), (1, False)],
    ]
    told = {t.move: (t.result.status, t.result.steps, t.result.rungs) for t in result.trials}
    assert told["start"] == ("finished", 10, ((4, 0.0), (8, 0.0)))
    assert told["pruned"] == ("pruned", 4, ((4, 5.3),))
    assert result.trials[5].memo == {"radius": 0.7}
    states = {trial.user_attrs["move"]: trial.state.name for trial in rows(tmp_path / "trials.db")}
    assert states == {move: "PRUNED" if move == "pruned" else "COMPLETE" for move in specs}


def test_a_point_that_is_asked_for_twice_is_trained_once(tmp_path):
    point = Proposal(params={"lr": 0.3, "embedding.start": 7.0}, move="start")
    engine = Engine()
    task = SearchTask(Fixed([point], [point]), spec_of)
    result = tune({"proxy/one": task}, engine, TrialStore(tmp_path / "trials.db"))["proxy/one"]
    assert len(engine.trained) == 1
    assert result.trials[0].result == result.trials[1].result


def test_a_parameter_that_may_be_zero_is_kept_as_any_other(tmp_path):
    point = Proposal(params={"lr": 0.3, "embedding.start": 7.0, "beta1": 0.9}, move="start")
    tune({"proxy/one": SearchTask(Fixed([point]), spec_of)}, Engine(), TrialStore(tmp_path / "trials.db"))
    assert rows(tmp_path / "trials.db")[0].params["beta1"] == 0.9
