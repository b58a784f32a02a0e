"""Replayed stages of a rollout: what was committed is what was promised, and comes back from the same seed."""

from experiments import rows
from experiments.coverage import noise
from experiments.rollout import measure


def test_committed_replays_of_equal_arms_pass_in_less_than_5_percent():
    found = rows.read(measure.RESULTS, measure.SCHEMA)
    assert all(row["commit"] for row in found)
    for name in noise.POOLS:
        equal = [row for row in found if row["noise"] == name and row["gain"] == 0]
        for tau in measure.TAUS:
            stages = [row for row in equal if row["method"] == measure.ANYTIME and row["tau"] == tau]
            assert len({row["seed"] for row in stages}) == measure.REPLAYS
            assert sum(row["passed"] for row in stages) < 0.05 * measure.REPLAYS
        peeked = [row for row in equal if row["method"] == measure.PEEKED]
        assert sum(row["passed"] for row in peeked) > 0.05 * measure.REPLAYS


def test_a_replay_comes_back_from_its_seed():
    pool = noise.demo() / noise.demo().std()
    found = {row["method"]: row for row in measure.replay(pool, 3.0, 3.0, seed=1)}
    assert found == {row["method"]: row for row in measure.replay(pool, 3.0, 3.0, seed=1)}
    assert found[measure.ANYTIME]["passed"]
    assert found[measure.ANYTIME]["days"] < measure.DAYS
