"""What an earlier study's trials tell a new search: read without a change, taken into another space, and worth runs."""

import hashlib
import math

import pytest
from driving import drive, ended

from rlrs.records import Proposal
from rlrs.search import Space, StorageError, TrialStore, make_method
from rlrs.search.earlier import earlier_trials, in_space
from rlrs.settings import SearchConfig

START = {"lr": 8e-3, "final_fraction": 0.05, "embedding.start": 5.0, "embedding.end": 0.5, "router.start": 1.0}
BEST = {"lr": 4e-3, "final_fraction": 0.08, "embedding.start": 24.0, "embedding.end": 2.0, "router.start": 2.0}


def bowl(params, best=BEST, floor=3.0):
    def rates(p):
        lr, last = p["lr"], p["lr"] * p["final_fraction"]
        embedding = lr * p["embedding.start"], last * p["embedding.end"]
        seen = lr, last + 0.03 * lr, embedding[0], embedding[1] + 0.03 * embedding[0], lr * p["router.start"]
        return map(math.log, seen)

    offsets = [a - b for a, b in zip(rates(params), rates(best), strict=True)]
    return floor + 0.05 * sum(o * o for o in offsets) + 0.002 * math.sin(1e4 * sum(offsets))


def make(budget, known=(), start=START):
    settings = SearchConfig(trials=budget, retest={"points": 0})
    return make_method(Space.around(start), settings, steps=100, window=20, known=known)


def recorded(path, searches):
    """A database as a study leaves it."""
    store = TrialStore(path)
    for name, batches in searches.items():
        store.open(name, {})
        for batch in batches:
            store.add_batch(name, batch, [f"{name} {n}" for n in range(len(batch))])
            for trial in store.trials(name):
                if trial.result is None:
                    store.begin(name, trial)
                    proposal = Proposal(params=trial.params, move=trial.move)
                    store.end(name, trial, ended(proposal, 0, 0, bowl(trial.params)).result)
    store.leave()


def test_finished_whole_trials_are_read_best_first_and_the_file_is_left_as_it_is(tmp_path):
    (tmp_path / "exp#2?a=%20").mkdir()
    path = tmp_path / "exp#2?a=%20" / "trials.db"
    proposals = [Proposal(params=START, move="start"), Proposal(params=BEST, move="x")]
    recorded(path, {"proxy/rlrs": [proposals, [Proposal(params=BEST, move="short", steps=5)]]})
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    found = earlier_trials(path)
    assert [trial.params for trial in found["proxy/rlrs"]] == [BEST, START]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_what_is_no_database_is_one_line(tmp_path):
    with pytest.raises(StorageError, match="there is no such file"):
        earlier_trials(tmp_path / "trials.db")
    (tmp_path / "trials.db").write_text("text\n" * 100)
    with pytest.raises(StorageError, match=r"trials\.db: not a database of trials") as error:
        earlier_trials(tmp_path / "trials.db")
    assert "\n" not in str(error.value)


def test_points_are_taken_into_another_space():
    space = Space.around({"lr": 1e-2, "attention.start": 2.0})
    [(point, score)] = in_space([({"lr": 5.0, "router.start": 3.0}, 3.2)], space)
    assert point == {"lr": 0.16, "attention.start": 2.0}  # the highest rate that is searched
    assert score == 3.2


def test_a_search_that_knows_a_like_one_is_better_after_a_third_of_the_runs():
    """The earlier one was of another size: its losses are a nat higher, and its best point is elsewhere."""
    other = {name: value * 1.3 for name, value in BEST.items()}
    batches, _ = drive(make(36), lambda params: bowl(params, other, 4.0))
    known = sorted(((p.params, bowl(p.params, other, 4.0)) for batch in batches for p in batch), key=lambda k: k[1])
    start = {name: known[0][0][name] for name in START}
    knowing, ended_with = drive(make(8, known, start), bowl)
    assert sum(map(len, knowing)) <= 8
    _, from_nothing = drive(make(8), bowl)
    _, long = drive(make(24), bowl)
    assert ended_with.score < from_nothing.score
    assert ended_with.score < long.score + 0.01
    assert knowing[0][0].params == start
