import math

import pytest
from driving import drive

from rlrs.search import Bracket


def tried_and_stop(method, loss):
    batches, stop = drive(method, lambda params: loss(params["lr"]))
    return [proposal.params["lr"] for batch in batches for proposal in batch], stop


def bowl(best):
    return lambda lr: math.log(lr / best) ** 2


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        (1.0, [1.0, 0.5, 2.0]),
        (0.25, [1.0, 0.5, 0.25, 0.125]),
        (2.0, [1.0, 0.5, 2.0, 4.0]),
        (0.5, [1.0, 0.5, 0.25]),
    ],
)
def test_it_goes_downhill_until_both_neighbours_of_the_best_are_worse(best, tried):
    got, stop = tried_and_stop(Bracket("lr", 1.0, 2, 9), bowl(best))
    assert got == tried
    assert stop.best == {"lr": best}
    assert stop.reason == "the rates tried on both sides are worse"


def test_a_spent_budget_says_that_the_best_is_at_the_edge():
    got, stop = tried_and_stop(Bracket("lr", 1.0, 2, 3), bowl(0.01))
    assert got == [1.0, 0.5, 0.25]
    assert "best at the edge of what was tried" in stop.reason


def test_a_budget_that_just_suffices_is_not_called_an_edge():
    _, stop = tried_and_stop(Bracket("lr", 1.0, 2, 3), bowl(0.5))
    assert stop.reason == "the rates tried on both sides are worse"


def test_when_all_diverge_it_goes_lower():
    got, stop = tried_and_stop(Bracket("lr", 1.0, 2, 4), lambda lr: math.inf if lr > 0.2 else lr)
    assert got == [1.0, 0.5, 0.25, 0.125]
    assert stop.best == {"lr": 0.125}


def test_a_budget_of_one_tries_the_start_alone():
    got, stop = tried_and_stop(Bracket("lr", 1.0, 2, 1), bowl(1.0))
    assert got == [1.0]
    assert stop.best == {"lr": 1.0}
