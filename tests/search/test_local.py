import math

import pytest
from driving import drive
from hypothesis import given
from hypothesis import strategies as st

from rlrs.search import LocalSearch, Space

MULTIPLIERS = (0.2, 2 / 3, 1.5, 5.0)


def bowl(optimum):
    return lambda params: sum(math.log(params[name] / best) ** 2 for name, best in optimum.items())


def search(start, budget=1000, sweeps=30, seed=0, multipliers=MULTIPLIERS):
    return LocalSearch(Space.around(start), multipliers, sweeps, budget, seed)


def test_the_first_batch_is_the_start_and_one_parameter_at_each_multiple():
    batches, _ = drive(search({"lr": 0.01}), bowl({"lr": 0.01}))
    assert [p.params["lr"] for p in batches[0]] == [0.01, 0.002, 0.00666667, 0.015, 0.05]
    assert [p.move for p in batches[0]][:2] == ["start", "lr 0.01 -> 0.002"]


def test_a_sweep_without_a_change_stops():
    batches, stop = drive(search({"a.start": 1.0, "a.end": 1.0}), bowl({"a.start": 1.0, "a.end": 1.0}))
    assert stop.reason == "a whole sweep changed nothing"
    assert stop.rounds == 1
    assert sum(map(len, batches)) == 9


def test_the_best_of_a_batch_replaces_the_current_value():
    batches, stop = drive(search({"lr": 1.0, "a.end": 1.0}), bowl({"lr": 5.0, "a.end": 0.2}))
    assert stop.best == {"lr": 5.0, "a.end": 0.2}
    assert stop.score == 0.0
    first_moved = next(n for n in ("lr", "a.end") if batches[0][1].params[n] != 1.0)
    assert all(p.params[first_moved] == {"lr": 5.0, "a.end": 0.2}[first_moved] for p in batches[1])


@given(st.integers(1, 40), st.integers(0, 5))
def test_no_more_than_the_budget_is_tried_and_nothing_twice(budget, seed):
    start = {"lr": 1.0, "a.start": 1.0, "a.end": 1.0}
    batches, stop = drive(search(start, budget, seed=seed), bowl({"lr": 0.3, "a.start": 7.0, "a.end": 2.0}))
    points = [tuple(p.params.items()) for batch in batches for p in batch]
    assert len(points) == len(set(points)) <= budget
    if len(points) == budget:
        assert stop.reason == f"the budget of {budget} run{'s' if budget > 1 else ''} is spent"


def test_the_seed_decides_the_order_and_the_same_seed_gives_the_same_course():
    start = {f"c{k}.start": 1.0 for k in range(6)}
    loss = bowl({"c1.start": 2.0, "c4.start": 0.1})
    one, two, other = (drive(search(start, seed=seed), loss)[0] for seed in (3, 3, 4))
    assert one == two
    assert one != other


def test_diverged_runs_never_win():
    loss = bowl({"lr": 5.0})
    _, stop = drive(search({"lr": 1.0}), lambda p: math.inf if p["lr"] > 2 else loss(p))
    assert stop.best["lr"] <= 2


def test_values_stay_in_bounds_and_out_of_bounds_moves_cost_nothing():
    batches, _ = drive(search({"final_fraction": 0.5}), bowl({"final_fraction": 30.0}))
    assert max(p.params["final_fraction"] for b in batches for p in b) <= 1.0


def test_when_every_run_diverges_the_score_says_so():
    _, stop = drive(search({"lr": 1.0}, budget=3), lambda p: math.inf)
    assert stop.score is None
    assert stop.best == pytest.approx({"lr": 1.0})
