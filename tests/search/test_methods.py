"""Every method on a bowl with noise: it improves on its start, is the same every time, and keeps to its budget."""

import math
import random
import statistics
import sys

import pytest
from driving import drive

from rlrs.search import METHODS, Feedback, Proposal, Space, Stop, method_of
from rlrs.search.methods import ended
from rlrs.search.pruning import LEAST_RUNS, late_only, margins, pruned
from rlrs.search.verification import cheap, retested
from rlrs.settings import ConfigError, SearchConfig

START = {"lr": 8e-3, "final_fraction": 0.05, "embedding.start": 5.0, "embedding.end": 0.5, "router.start": 1.0}
BEST = {"lr": 4e-3, "final_fraction": 0.08, "embedding.start": 24.0, "embedding.end": 2.0, "router.start": 2.0}


def bowl(params):
    # A parabola in the rates that components really have, flat where an end rate is far below its start; and a little
    # noise that depends on the point alone.
    def rates(p):
        lr, last = p["lr"], p["lr"] * p["final_fraction"]
        embedding = lr * p["embedding.start"], last * p["embedding.end"]
        seen = lr, last + 0.03 * lr, embedding[0], embedding[1] + 0.03 * embedding[0], lr * p["router.start"]
        return map(math.log, seen)

    offsets = [a - b for a, b in zip(rates(params), rates(BEST), strict=True)]
    return 3.0 + 0.05 * sum(o * o for o in offsets) + 0.002 * math.sin(1e4 * sum(offsets))


def make(name, budget=40, **options):
    settings = SearchConfig(method=name, trials=budget, retest={"points": 0}, **options)
    return method_of(Space.around(START), settings, steps=100, window=20)


@pytest.mark.parametrize("name", [*METHODS, "optuna.samplers.QMCSampler"])
def test_a_method_starts_at_the_start_keeps_its_budget_and_is_the_same_every_time(name):
    budget = 14 if name == "gp" else 40  # a Gaussian process takes its time
    batches, stop = drive(make(name, budget), bowl)
    proposals = [p for batch in batches for p in batch]
    assert proposals[0].params == START
    assert len(proposals) <= budget
    # The surface smooths noise out: it may prefer a point beside the one with the lowest score.
    assert stop.score == bowl(stop.best) <= min(bowl(p.params) for p in proposals) + 0.01 * (name == "response-surface")
    if name in ("local", "trust-region", "response-surface"):
        assert stop.score < 3.0 + 0.5 * (bowl(START) - 3.0)
    again, _ = drive(make(name, budget), bowl)
    assert [p.params for batch in again for p in batch] == [p.params for p in proposals]


def test_the_response_surface_is_at_the_bottom_of_a_parabola_within_thirty_runs_and_stops_by_itself():
    batches, stop = drive(make("response-surface", 200), bowl)
    first = [p for batch in batches for p in batch][:30]
    assert min(bowl(p.params) for p in first) < 3.01
    assert "little beside a trial's noise" in stop.reason or "nothing better was found" in stop.reason
    assert sum(map(len, batches)) < 100


def test_the_response_surface_ends_with_a_better_point_than_the_luckiest_run():
    ended, luckiest = [], []
    for seed in range(16):
        noise = random.Random(seed)
        scores = {}

        def loss(params, noise=noise, scores=scores):
            return scores.setdefault(tuple(params.values()), bowl(params) + noise.gauss(0, 0.03))

        batches, stop = drive(make("response-surface", 24, seed=seed), loss)
        lowest = min((p for batch in batches for p in batch), key=lambda p: loss(p.params))
        ended.append(bowl(stop.best))
        luckiest.append(bowl(lowest.params))
    assert statistics.fmean(ended) < statistics.fmean(luckiest) - 0.004


def test_a_surface_of_the_nearest_trials_alone_finds_the_bottom_too(monkeypatch):
    monkeypatch.setattr(sys.modules["rlrs.search.methods.response_surface"], "NEAREST", 16)
    _, stop = drive(make("response-surface", 40), bowl)
    assert bowl(stop.best) < 3.02


@pytest.mark.parametrize("name", [*METHODS])
def test_diverged_runs_stop_no_method_and_never_win(name):
    def loss(params):
        return math.inf if params["embedding.start"] > 6 or params["lr"] > 9e-3 else bowl(params)

    _, stop = drive(make(name, 16), loss)
    assert math.isfinite(stop.score)


@pytest.mark.parametrize("name", ["local", "response-surface", "tpe", "policy-gradient"])
def test_when_every_run_diverges_a_method_still_ends(name):
    _, stop = drive(make(name, 12), lambda params: math.inf)
    assert stop.score == math.inf


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("local", {"options": {"step": 2}}, "search.options: local has no 'step'; it has no options"),
        (
            "response-surface",
            {"options": {"step": 2}},
            "search.options: response-surface has no 'step'; it has first_move",
        ),
        ("response-surface", {"options": {"first_move": 1}}, "search.options.first_move: should be a factor above 1"),
        ("bayes", {}, "search.method: no method 'bayes'; there are local, trust-region, gp"),
        ("no.such.Sampler", {}, "search.method: cannot import 'no.such.Sampler'"),
        ("optuna.study.Study", {}, "'optuna.study.Study' is no Optuna sampler"),
        (
            "optuna.samplers.TPESampler",
            {"options": {"colour": 1}},
            "search.options: optuna.samplers.TPESampler cannot be",
        ),
        ("local", {"fidelity": {"steps": 0.5, "verify": 40}}, "search.trials: 40 runs leave none to search with"),
    ],
)
def test_a_method_that_cannot_be_made_is_one_line(name, options, message):
    with pytest.raises(ConfigError) as caught:
        make(name, **options)
    assert message in str(caught.value)


def trained(proposal, steps=100):
    """A run whose windowed loss is its final one and a half, less what the rung still lacks."""
    loss = bowl(proposal.params)
    rungs = []
    for step, limit in proposal.prune.rungs if proposal.prune else ():
        rungs.append(loss + 2 * (1 - step / steps))
        if limit is not None and rungs[-1] > limit:
            return Feedback(math.inf, "pruned", step, tuple(rungs))
    return Feedback(loss, "finished", proposal.steps or steps, tuple(rungs))


def follow(method):
    done, told = [], None
    while True:
        try:
            batch = next(method) if told is None else method.send(told)
        except StopIteration as end:
            return done, end.value
        told = [trained(p) for p in batch]
        done += zip(batch, told, strict=True)


def test_pruning_ends_bad_trials_and_spends_what_it_saves():
    done, stop = follow(make("trust-region", 40, prune=0.1))
    ended = [f for _, f in done if f.status == "pruned"]
    assert all(f.status == "finished" for _, f in done[:LEAST_RUNS])
    assert ended
    assert len(done) > 40
    assert 40 <= sum(f.steps for _, f in done) / 100 < 44
    assert f"{len(ended)} of {len(done)} trials ended at a rung" in stop.reason
    assert stop.score == min(f.score for _, f in done)
    again, _ = follow(make("trust-region", 40, prune=0.1))
    assert again == done


def test_every_eighth_trial_is_a_control_without_limits():
    done, _ = follow(make("random", 30, prune=0.1))
    limited = [any(limit is not None for _, limit in p.prune.rungs) for p, _ in done]
    assert not any(limited[7::8])
    assert any(limited)


def test_margins_are_what_better_runs_exceed_in_the_stated_share_of_pairs():
    scores = [float(n) for n in range(20)]
    curves = [[s + (0.5 if n % 10 == 9 else 0.0), s] for n, s in enumerate(scores)]
    wide, none = margins(curves, scores, 0.0)
    assert none == 0.0  # the last rung tells exactly who is better
    assert wide == 0.0  # half a nat late is still better than the next whole one
    curves[0][0] = 5.5  # the best run of all, behind at the first rung
    assert margins(curves, scores, 0.0)[0] == pytest.approx(4.5)


def test_moves_of_ends_alone_are_judged_later():
    best = dict(START)
    assert late_only({**best, "embedding.end": 1.0, "final_fraction": 0.1}, best)
    assert not late_only({**best, "embedding.end": 1.0, "lr": 1.0}, best)

    def one_by_one():
        told = []
        for n in range(LEAST_RUNS):
            told += yield [Proposal({**START, "lr": START["lr"] * (2 + n / 10)}, "bad")]
        yield [Proposal({**START, "lr": START["lr"] * 2, "embedding.end": 9.0}, "late")]
        yield [Proposal({**START, "lr": START["lr"] * 3}, "early")]
        return Stop(START, 0.0, 1, "over")

    done, _ = follow(pruned(one_by_one(), steps=100, window=20, budget=99, error=0.1))
    first_limit = {
        p.move: next(step for step, limit in p.prune.rungs if limit is not None) for p, _ in done[LEAST_RUNS:]
    }
    assert first_limit == {"late": 70, "early": 25}


def test_a_search_on_short_runs_ends_with_whole_ones():
    done, stop = follow(make("tpe", 20, fidelity={"steps": 0.25, "verify": 4}))
    short = [p for p, _ in done if p.steps == 25]
    assert 20 < len(short) <= 64
    assert [n for n, (p, _) in enumerate(done) if p.whole] == [0, len(done) - 3, len(done) - 2, len(done) - 1]
    assert done[0][0].params == START
    assert stop.score == min(f.score for p, f in done if p.whole)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_response_surface_opens_with_moves_that_differ(count):
    space = Space.around(dict(list(START.items())[:count]))
    opening = next(method_of(space, SearchConfig(trials=40, retest={"points": 0}), steps=100, window=20))
    assert len(opening) == 1 + min(8, 2**count)
    assert len({tuple(p.params.values()) for p in opening}) == len(opening)


def test_the_response_surface_begins_with_moves_of_the_size_asked_for():
    (batch, *_), _ = drive(make("response-surface", 9, options={"first_move": 1.25}), bowl)
    start, *moved = [proposal.params["embedding.start"] for proposal in batch]
    assert len(batch) == 9
    assert all(max(value / start, start / value) < 1.25**2.1 for value in moved)
    assert any(max(value / start, start / value) > 1.2 for value in moved)


def test_the_response_surface_goes_from_short_runs_to_whole_ones_within_its_budget():
    done, stop = follow(make("response-surface", 20, fidelity={"steps": 0.25}))
    proposals = [p for p, _ in done]
    short = [p for p in proposals if p.steps == 25]
    assert proposals[0].whole
    assert proposals[0].params == proposals[1].params == START
    assert len(short) == 28  # 0.4 of 20 runs, less one whole run
    assert len(proposals) - len(short) + len(short) / 4 <= 20
    assert all(p.whole for p in proposals[len(short) + 1 :])
    assert stop.score == min(f.score for p, f in done if p.whole)
    assert bowl(stop.best) < 3.02  # from 3.2


def test_a_lucky_seed_does_not_win():
    lucky, sound = {**START, "lr": 1e-3}, {**START, "lr": 2e-3}

    def two():
        yield [Proposal(START, "start"), Proposal(lucky, "lucky"), Proposal(sound, "sound")]
        return Stop(lucky, 1.0, 1, "over")

    method = retested(two(), points=2, seeds=2, seed=0)
    next(method)
    again = method.send([Feedback(3.0), Feedback(1.0), Feedback(1.1)])
    assert [(p.params["lr"], p.seed) for p in again] == [
        (1e-3, 10**6),
        (1e-3, 10**6 + 1),
        (2e-3, 10**6),
        (2e-3, 10**6 + 1),
    ]
    with pytest.raises(StopIteration) as end:
        method.send([Feedback(2.0), Feedback(2.0), Feedback(1.1), Feedback(1.2)])
    stop = end.value.value
    assert (stop.best, stop.score) == (sound, 1.1)
    assert "best of 2 points on 3 seeds, 0.5333 nats below the search's own best" in stop.reason


def test_cheap_runs_can_be_narrower():
    def one():
        yield [Proposal(START, "start"), Proposal(BEST, "best")]
        return Stop(BEST, 0.9, 1, "over")

    method = cheap(one(), steps=None, width=8, verify=2)
    assert [(p.width, p.whole) for p in next(method)] == [(None, True), (8, False), (8, False)]
    (again,) = method.send([Feedback(1.5), Feedback(1.0), Feedback(0.9)])
    assert (again.params, again.whole) == (BEST, True)
    with pytest.raises(StopIteration) as end:
        method.send([Feedback(1.4)])
    assert (end.value.value.best, end.value.value.score) == (BEST, 1.4)


def noisy(params):
    return bowl(params) + 0.03 * math.sin(1e5 * sum(params.values()))


@pytest.mark.parametrize("retest", [0, 2])
def test_ended_early_the_response_surface_answers_as_if_that_had_been_its_budget(retest):
    settings = SearchConfig(trials=60, retest={"points": retest})
    method = method_of(Space.around(START), settings, steps=100, window=20)
    batch, tried = next(method), []
    while len(tried) + len(batch) <= 25:
        tried += batch
        batch = method.send([Feedback(noisy(p.params)) for p in batch])
    stop = ended(method, "no more time")
    _, whole = drive(make("response-surface", 25), noisy)
    assert len(tried) == 25
    assert (stop.best, stop.score, stop.reason) == (whole.best, whole.score, "no more time")
    assert stop.score > min(noisy(p.params) for p in tried)


def test_ended_while_its_best_points_are_tested_again_a_search_answers_as_it_would_have_without():
    def one():
        yield [Proposal(START, "start"), Proposal(BEST, "best")]
        return Stop(BEST, 1.0, 1, "over")

    method = retested(one(), points=2, seeds=1, seed=0)
    next(method)
    method.send([Feedback(2.0), Feedback(1.0)])
    assert ended(method, "stopped") == Stop(BEST, 1.0, 1, "over; not tested again: stopped")


@pytest.mark.parametrize("name", ["local", "tpe", "trust-region"])
@pytest.mark.parametrize("cheaper", [{}, {"fidelity": {"steps": 0.5}}, {"prune": 0.05}])
def test_a_method_without_an_answer_of_its_own_leaves_it_to_the_lowest_score(name, cheaper):
    method = make(name, **cheaper)
    (first, *_) = next(method)
    assert first.whole
    assert ended(method, "stopped") is None
