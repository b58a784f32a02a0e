import math

import optuna
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine as Database

from rlrs.records import Pruning, RunResult
from rlrs.search import (
    Budget,
    Interrupted,
    Proposal,
    Search,
    Space,
    Stop,
    StorageError,
    Trials,
    local_search,
    method_of,
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
        f"proxy/{name}": Search(
            local_search(Space.around(start), multipliers=(0.2, 2 / 3, 1.5, 5.0), sweeps=9, budget=budget, seed=seed),
            spec_of,
        )
        for seed, name in enumerate(("one", "two"))
    }


def history(outcomes):
    return {
        name: [(t.proposal.params, t.score, t.improved) for t in outcome.tried] + [outcome.stop]
        for name, outcome in outcomes.items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    engine = Engine()
    outcomes = tune(searches(), engine, Trials(tmp_path_factory.mktemp("whole") / "trials.db"))
    return history(outcomes), engine.trained


def test_searches_side_by_side_each_find_their_way(whole):
    for course in whole[0].values():
        assert course[-1].score < 0.5
        assert len(course) - 1 <= 20


@pytest.mark.parametrize("die_after", [0, 1, 4, 5, 13, 23])
def test_started_again_after_a_kill_it_takes_the_same_course_and_repeats_no_finished_run(tmp_path, whole, die_after):
    first = Engine(die_after)
    with pytest.raises(KilledError):
        tune(searches(), first, Trials(tmp_path / "trials.db"))
    second = Engine()
    outcomes = tune(searches(), second, Trials(tmp_path / "trials.db"))
    assert history(outcomes) == whole[0]
    assert len(first.trained) == die_after
    assert len(first.trained) + len(second.trained) == len(whole[1])


def test_a_finished_search_trains_nothing_again(tmp_path, whole):
    for _ in range(2):
        engine = Engine()
        outcomes = tune(searches(), engine, Trials(tmp_path / "trials.db"))
    assert engine.trained == []
    assert history(outcomes) == whole[0]


def test_every_trial_is_in_optunas_storage_once_with_its_value_and_move(tmp_path):
    tune(searches(6), Engine(diverge_above=2.0), Trials(tmp_path / "trials.db"))
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
        tune(searches(6), engine, Trials(tmp_path / "trials.db"))
        assert bool(engine.trained) is expected


def test_a_kill_leaves_no_trial_that_is_half_there(tmp_path):
    with pytest.raises(KilledError):
        tune(searches(), Engine(2), Trials(tmp_path / "trials.db"))
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    trials = [
        t
        for s in optuna.get_all_study_summaries(storage)
        for t in optuna.load_study(study_name=s.study_name, storage=storage).trials
    ]
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert all(trial.params and "result" in trial.user_attrs for trial in trials)


def test_the_file_alone_holds_all_trials_once_a_search_has_ended(tmp_path):
    trials = Trials(tmp_path / "trials.db")
    tune(searches(6), Engine(), trials)
    assert [path.name for path in tmp_path.iterdir()] == ["trials.db"]
    # Kept in a write-ahead log while a search is at work: one wait for the disk per trial.
    assert (tmp_path / "trials.db").read_bytes()[18:20] == b"\x02\x02"
    assert trials.finished("proxy/one", spec_of({"lr": 1.0, "embedding.start": 1.0}))


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "trials.db"
    path.write_text("my notes on the trials")
    with pytest.raises(StorageError, match=r"trials.db: not a SQLite database; move it away"):
        Trials(path)
    assert path.read_text() == "my notes on the trials"


def test_a_database_of_something_else_is_refused(tmp_path):
    import sqlite3

    path = tmp_path / "trials.db"
    with sqlite3.connect(path) as connection:
        connection.execute("create table studies (a int)")
    connection.close()
    with pytest.raises(StorageError, match="the database of trials cannot be used"):
        Trials(path).open("proxy/one")


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


def test_killed_before_any_transaction_of_the_database_it_goes_on(tmp_path, kill_at_commit):
    def search():
        return {"proxy/one": searches(2)["proxy/one"]}

    course = history(tune(search(), Engine(), Trials(tmp_path / "whole.db")))
    for kept in range(kill_at_commit["kept"]):
        path = tmp_path / f"{kept}.db"
        kill_at_commit["left"] = kept
        with pytest.raises(KilledError):
            tune(search(), Engine(), Trials(path))
        kill_at_commit["left"] = math.inf
        assert history(tune(search(), Engine(), Trials(path))) == course, f"killed after {kept} transactions"


def short_first():
    settings = SearchConfig(method="local", fidelity={"steps": 0.5}, retest={"points": 0})
    space = Space.around({"lr": 1.0, "embedding.start": 1.0})
    return Search(
        method_of(space, settings, steps=10, window=5), spec_of, budgets=[Budget(40, "steps", lambda _, n, s: n)]
    )


def test_a_budget_that_ends_before_short_runs_do_leaves_the_best_whole_run(tmp_path):
    outcome = tune({"proxy/one": short_first()}, Engine(), Trials(tmp_path / "trials.db"))["proxy/one"]
    assert [tried.spec.steps for tried in outcome.tried] == [10] + [5] * 5
    assert outcome.stop.best == outcome.tried[0].proposal.params
    assert outcome.stop.score == outcome.tried[0].score
    assert "would pass the budget of 40 steps" in outcome.stop.reason


@pytest.mark.parametrize(("after", "answers"), [(0, 0), (7, 1)])
def test_ctrl_c_leaves_what_each_search_has_found(tmp_path, after, answers):
    class Stopped(Engine):
        def next(self, tick=None, timeout=None):
            if len(self.trained) == after:
                raise KeyboardInterrupt
            return super().next(tick, timeout)

    with pytest.raises(Interrupted) as stopped:
        tune(searches(), Stopped(), Trials(tmp_path / "trials.db"))
    found = stopped.value.so_far
    assert len(found) == answers
    assert sum(len(outcome.tried) for outcome in found.values()) == after
    for outcome in found.values():
        assert outcome.stop.score == min(tried.score for tried in outcome.tried)


PRUNE = Pruning(rungs=((4, 0.5), (8, 0.5)), window=2)


def cheap_trials():
    """Shorter, narrower, other seeds, pruned: a method that uses all that a proposal can say."""
    start = {"lr": 0.3, "embedding.start": 7.0}
    worse = {**start, "lr": 3.0}
    told = yield [
        Proposal(start, "start", prune=Pruning(rungs=((4, None), (8, None)), window=2)),
        Proposal(worse, "pruned", prune=PRUNE),
        Proposal(worse, "short", steps=5),
        Proposal(start, "narrow", width=4),
        Proposal(start, "seed", seed=3),
    ]
    told += yield [Proposal(worse, "not pruned"), Proposal(start, "cheap", steps=5, prune=PRUNE)]
    return Stop(start, told[0].score, 1, repr([(f.status, f.steps, f.rungs, math.isfinite(f.score)) for f in told]))


@pytest.mark.parametrize("die_after", [0, 1, 2, 3, 4, 5, 6, 7])
def test_cheap_trials_are_told_apart_and_replayed_after_a_kill(tmp_path, die_after):
    def search():
        return {"proxy/one": Search(cheap_trials(), spec_of)}

    first, second = Engine(die_after), Engine()
    if die_after < 7:
        with pytest.raises(KilledError):
            tune(search(), first, Trials(tmp_path / "trials.db"))
    else:
        tune(search(), first, Trials(tmp_path / "trials.db"))
    outcome = tune(search(), second, Trials(tmp_path / "trials.db"))["proxy/one"]
    assert len(first.trained) == die_after
    assert len(first.trained) + len(second.trained) == 7
    specs = {tried.proposal.move: tried.spec for tried in outcome.tried}
    assert (specs["short"].steps, specs["short"].training.score_steps) == (5, 50)
    assert (specs["narrow"].model.d_model, specs["narrow"].model.n_heads) == (4, 1)
    assert specs["seed"].seed == 3
    assert [tried.improved for tried in outcome.tried] == [True] + [False] * 6
    told = [("finished", 10, (0.0, 0.0), True), ("pruned", 4, (5.3,), False), ("finished", 5, (), True)]
    assert repr(told)[1:-1] in outcome.stop.reason
    study = optuna.load_study(study_name="proxy/one", storage=f"sqlite:///{tmp_path / 'trials.db'}")
    states = {trial.user_attrs["move"]: trial.state.name for trial in study.trials if "result" in trial.user_attrs}
    assert states == {move: "PRUNED" if move == "pruned" else "COMPLETE" for move in specs}


def test_a_parameter_that_may_be_zero_is_kept_as_any_other(tmp_path):
    def one_point():
        feedback = yield [Proposal({"lr": 0.3, "embedding.start": 7.0, "beta1": 0.9}, "start")]
        return Stop({"lr": 0.3, "embedding.start": 7.0, "beta1": 0.9}, feedback[0].score, 1, "one point")

    tune({"proxy/one": Search(one_point(), spec_of)}, Engine(), Trials(tmp_path / "trials.db"))
    study = optuna.load_study(study_name="proxy/one", storage=f"sqlite:///{tmp_path / 'trials.db'}")
    assert study.trials[0].params["beta1"] == 0.9
