"""The answer of a search is tried nearer to the edge of stability, and gives way where it is too near."""

import math

from driving import drive

from rlrs.search import Space, make_method
from rlrs.settings import SearchConfig, StudyConfig, changing

SPACE = Space.around({"lr": 0.01, "embedding.start": 2.0})
SETTINGS = {"method": "local", "trials": 40, "multipliers": (0.5, 2.0), "lr": 0.01, "retest": {"points": 0}}


def loss(edge):
    """A parabola in the logarithms with its minimum at a rate of 0.02, and an edge beyond which all diverges."""

    def score(params):
        rate = params["lr"]
        return math.inf if rate > edge else 3 + 0.05 * math.log(rate / 0.02) ** 2

    return score


def searched(edge, **stability):
    settings = SearchConfig.model_validate({**SETTINGS, "stability": stability})
    return drive(make_method(SPACE, settings, steps=10, window=2), loss(edge))


def test_an_answer_far_from_the_edge_stays_and_says_how_far():
    batches, result = searched(edge=1.0)
    plain = drive(make_method(SPACE, SearchConfig.model_validate(SETTINGS), steps=10, window=2), loss(1.0))[1]
    assert result.best == plain.best
    assert result.stability.stable
    assert result.stability.retreats == 0
    last = batches[-1]
    assert [trial.params["lr"] for trial in last] == [0.03, 0.03]
    assert len({trial.seed for trial in last}) == 2
    assert result.reason.endswith("; stable at 1.5 times its rate on 2 seeds")


def test_an_answer_at_the_edge_gives_way_to_a_smaller_rate_that_was_trained_whole():
    _, result = searched(edge=0.025)
    assert result.best["lr"] == 0.0133333
    assert (result.stability.stable, result.stability.retreats) == (True, 1)
    assert result.score == loss(0.025)(result.best)


def test_an_answer_that_stays_unstable_says_so():
    settings = SearchConfig.model_validate({**SETTINGS, "stability": {"retreats": 2}})
    method = make_method(SPACE, settings, steps=10, window=2)
    history, result = follow_unstable(method)
    assert not result.stability.stable
    assert "; not stable at 1.5 times its rate on 2 seeds" in result.reason
    assert sum("stability" in trial.memo for trial in history) == 2 + 2 * 3


def follow_unstable(method):
    """On the search's seed all is well; on every fresh one a run diverges."""
    from driving import ended, follow

    def results(proposal, number, batch):
        score = math.inf if proposal.seed is not None else loss(1.0)(proposal.params)
        return ended(proposal, number, batch, score)

    return follow(method, results)


def test_its_runs_are_a_part_of_the_trials():
    batches, _ = searched(edge=0.025, retreats=2, seeds=3)
    assert sum(len(batch) for batch in batches) <= 40


def test_a_study_without_it_is_the_study_that_it_was():
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2}
    scale = {"model": model, "steps": 10, "batch_size": 4}
    plain = {"name": "s", "proxy": scale, "target": scale}
    assert "stability" not in changing(StudyConfig.model_validate(plain))["search"]
    with_it = {**plain, "search": {"stability": {}}}
    assert changing(StudyConfig.model_validate(with_it))["search"]["stability"]["seeds"] == 2
