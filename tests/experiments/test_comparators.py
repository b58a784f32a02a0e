"""Comparators on a parabola: each keeps its budget, and says the same to the same history."""

import math

import pytest

from experiments.search_methods.comparators import COMPARATORS
from experiments.search_methods.comparators.trust_region import GROW, RADIUS, SHRINK, TrustRegion
from rlrs.records import RunResult, SearchResult, Trial
from rlrs.search import Space

START = {"lr": 8e-3, "embedding.start": 5.0, "router.end": 0.5}
BEST = {"lr": 4e-3, "embedding.start": 12.0, "router.end": 1.0}


def parabola(params):
    return 3 + 0.1 * sum(math.log(params[name] / best) ** 2 for name, best in BEST.items())


def trained(proposal, number, batch, score):
    status = "finished" if math.isfinite(score) else "diverged"
    score = score if status == "finished" else None
    result = RunResult(status=status, steps=10, score=score, valid_loss=None, tokens=10, seconds=0.1)
    return Trial(**dict(proposal), number=number, batch=batch, run=f"{number:012x}", result=result)


def follow(method, loss=parabola):
    history = []
    while not isinstance(asked := method.ask(history), SearchResult):
        batch = history[-1].batch + 1 if history else 0
        history += [trained(p, len(history) + n, batch, loss(p.params)) for n, p in enumerate(asked)]
    return history, asked


@pytest.mark.parametrize("name", COMPARATORS)
def test_a_comparator_starts_at_the_start_spends_its_budget_and_answers_with_its_lowest_score(name):
    budget = 9 if name == "gp" else 22  # a Gaussian process takes its time
    history, result = follow(COMPARATORS[name](Space.around(START), budget, 0))
    assert history[0].params == START
    assert len(history) == budget
    assert result.score == parabola(result.best) == min(trial.score for trial in history)
    if name in ("trust-region", "policy-gradient", "cma-es"):  # those that move outwards from the start
        assert result.score < parabola(START) - 0.05
    assert result.reason == f"the budget of {budget} runs is spent"


@pytest.mark.parametrize("name", COMPARATORS)
def test_a_comparator_is_a_function_of_the_history_alone(name):
    budget = 9 if name == "gp" else 22
    history, _ = follow(COMPARATORS[name](Space.around(START), budget, 3))
    for batch in range(history[-1].batch + 1):
        before = [trial for trial in history if trial.batch < batch]
        asked = COMPARATORS[name](Space.around(START), budget, 3).ask(before)
        assert [p.params for p in asked] == [trial.params for trial in history if trial.batch == batch]


def test_the_trust_region_grows_with_a_better_point_and_shrinks_without():
    region = TrustRegion(Space.around(START), 40, 0)
    start = trained(region.ask([])[0], 0, 0, 3.0)
    first = region.ask([start])
    better = [start, *(trained(p, 1 + n, 1, 3.1 - n / 10) for n, p in enumerate(first))]
    worse = [start, *(trained(p, 1 + n, 1, 3.1 + n / 10) for n, p in enumerate(first))]
    diverged = [start, *(trained(p, 1 + n, 1, math.inf) for n, p in enumerate(first))]
    assert first[0].memo == {"radius": RADIUS}
    assert region.ask(better)[0].memo["radius"] == pytest.approx(RADIUS * GROW)
    assert region.ask(worse)[0].memo["radius"] == pytest.approx(RADIUS * SHRINK)
    assert region.ask(diverged)[0].memo["radius"] == pytest.approx(RADIUS * SHRINK)


def test_the_policy_moves_half_as_far_after_a_batch_that_diverged_and_as_far_as_before_after_equal_scores():
    policy = COMPARATORS["policy-gradient"](Space.around(START), 40, 0)
    start = trained(policy.ask([])[0], 0, 0, 3.0)

    def offsets(score):
        history = [start, *(trained(p, 1 + n, 1, score) for n, p in enumerate(policy.ask([start])))]
        return [math.log(p.params[name] / START[name]) for p in policy.ask(history) for name in START]

    assert offsets(math.inf) == pytest.approx([0.5 * offset for offset in offsets(3.5)], abs=1e-5)
