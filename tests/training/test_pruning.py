"""Runs that end early at a rung: the same numbers up to there as a run that does not."""

import math

import pytest

from rlrs.records import Pruning, RunResult
from rlrs.training import train


def every_loss(spec, data):
    prune = Pruning(rungs=tuple((step, None) for step in range(1, spec.steps + 1)), window=1)
    return [loss for _, loss in train(spec, data, prune=prune).rungs]


def test_rungs_without_limits_only_keep_windowed_losses(spec, data):
    losses = every_loss(spec(), data)
    result = train(spec(), data, prune=Pruning(rungs=((2, None), (10, None)), window=5))
    assert result.status == "finished"
    assert result.score == train(spec(), data).score == math.fsum(losses[-4:]) / 4
    assert result.rungs == ((2, math.fsum(losses[:2]) / 2), (10, math.fsum(losses[5:10]) / 5))


def test_a_run_ends_at_the_first_rung_whose_limit_its_loss_is_above(spec, data):
    whole = train(spec(), data, prune=Pruning(rungs=((5, None), (10, None)), window=3))
    (_, at_5), (_, at_10) = whole.rungs
    prune = Pruning(rungs=((5, at_5), (10, at_10 - 1e-9), (15, 0.0)), window=3)
    result = train(spec(), data, prune=prune)
    assert (result.status, result.steps, result.score, result.valid_loss) == ("pruned", 10, None, None)
    assert result.rungs == whole.rungs
    assert result.reason == f"training loss {at_10:.4g} at step 10 is above {at_10 - 1e-9:.4g}"
    assert result.tokens == 10 * 4 * 8


def test_results_and_prunings_come_back_from_json_as_they_were(spec, data):
    prune = Pruning(rungs=((5, 1.5), (10, None)), window=3)
    result = train(spec(), data, prune=prune)
    assert Pruning(**prune.to_plain()) == prune
    assert RunResult(**{**result.to_plain(), "rungs": [list(rung) for rung in result.rungs]}) == result


@pytest.mark.parametrize("rungs", [((0, None),), ((5, 1.0), (5, 2.0)), ((6, 1.0), (5, 2.0))])
def test_rungs_out_of_order_are_refused(rungs):
    with pytest.raises(ValueError, match="the steps of rungs should increase, from 1 on"):
        Pruning(rungs=rungs, window=1)


def test_a_run_that_may_be_pruned_keeps_no_files(spec, data, tmp_path):
    with pytest.raises(ValueError, match="leave out the folder"):
        train(spec(), data, tmp_path / "run", prune=Pruning(rungs=((5, 1.0),), window=1))
    assert not (tmp_path / "run").exists()
