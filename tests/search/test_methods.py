"""Every method on a bowl with noise: it improves on its start, is the same every time, and keeps to its budget."""

import math
import random
import statistics
import sys

import pytest
from driving import Fixed, after, drive, ended, follow
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrs.records import Proposal, SearchResult
from rlrs.search import METHODS, Space, make_method
from rlrs.search.fidelity import LowFidelity, Retested
from rlrs.search.pruning import LEAST_RUNS, Pruned, late_only, margins
from rlrs.settings import ConfigError, SearchConfig

START = {"lr": 8e-3, "final_fraction": 0.05, "embedding.start": 5.0, "embedding.end": 0.5, "router.start": 1.0}
BEST = {"lr": 4e-3, "final_fraction": 0.08, "embedding.start": 24.0, "embedding.end": 2.0, "router.start": 2.0}
OPTUNA = [f"optuna.samplers.{name}" for name in ("TPESampler", "CmaEsSampler", "RandomSampler", "QMCSampler")]


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
    search = SearchConfig(method=name, trials=budget, **{"retest": {"points": 0}, **options})
    return make_method(Space.around(START), search, steps=100, window=20)


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA, "optuna.samplers.GPSampler"])
def test_a_method_starts_at_the_start_keeps_its_budget_and_is_the_same_every_time(name):
    budget = 14 if "GP" in name else 40  # a Gaussian process takes its time
    batches, stop = drive(make(name, budget), bowl)
    proposals = [p for batch in batches for p in batch]
    assert proposals[0].params == START
    assert len(proposals) <= budget
    # The surface smooths noise out: it may prefer a point beside the one with the lowest score.
    assert stop.score == bowl(stop.best) <= min(bowl(p.params) for p in proposals) + 0.01 * (name == "response-surface")
    if name in METHODS:
        assert stop.score < 3.0 + 0.5 * (bowl(START) - 3.0)
    again, _ = drive(make(name, budget), bowl)
    assert [p.params for batch in again for p in batch] == [p.params for p in proposals]


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA])
@pytest.mark.parametrize("options", [{}, {"prune": 0.1}, {"fidelity": {"steps": 0.5}}])
def test_a_method_is_a_function_of_the_history_alone(name, options):
    """Asked by another instance, as after a kill, it says the same; what it asked before is read from the record."""
    history, result = follow(make(name, 20, **options), trained)
    for batch in sorted({trial.batch for trial in history}):
        before = [trial for trial in history if trial.batch < batch]
        asked = make(name, 20, **options).ask(before)
        assert [p.params for p in asked] == [t.params for t in history if t.batch == batch]
    assert make(name, 20, **options).ask(history) == result


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA])
def test_recorded_points_count_and_not_those_that_would_be_asked_for_now(name):
    """Another processor's points differ in the last digits: nothing is asked for a second time."""
    shifted = random.Random(0)

    def elsewhere(proposal, number, batch):
        moved = {k: float(f"{v * (1 + 1e-5 * shifted.random()):.6g}") for k, v in proposal.params.items()}
        return ended(proposal.model_copy(update={"params": moved}), number, batch, bowl(moved))

    history, _ = follow(make(name, 30), elsewhere)
    logs = [[math.log(v) for v in trial.params.values()] for trial in history]
    apart = [
        max(abs(x - y) for x, y in zip(one, two, strict=True)) for n, one in enumerate(logs) for two in logs[n + 1 :]
    ]
    assert len(history) <= 30
    assert min(apart) > 1e-4


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA])
@pytest.mark.parametrize("options", [{}, {"prune": 0.1}, {"fidelity": {"steps": 0.5}}, {"retest": {"points": 2}}])
def test_a_search_that_has_ended_goes_on_when_it_may_spend_more(name, options):
    history, _ = follow(make(name, 20, **options), trained)
    longer, asked = make(name, 32, **options), None
    while not isinstance(asked := longer.ask(history), SearchResult):
        history = after(history, asked, trained)
    cost = sum(trial.result.steps for trial in history) / 100
    assert cost <= 32 + 4  # a batch of pruned runs may end beyond it
    keys = [(*t.params.values(), t.steps, t.seed) for t in history]
    assert len(keys) == len(set(keys))
    best = [t.score for t in history if t.whole and t.measured and t.params == asked.best]
    assert best == [asked.score]


def test_the_response_surface_is_at_the_bottom_of_a_parabola_within_thirty_runs_and_stops_by_itself():
    batches, stop = drive(make("response-surface", 200), bowl)
    first = [p for batch in batches for p in batch][:30]
    assert min(bowl(p.params) for p in first) < 3.01
    assert "little beside a trial's noise" in stop.reason or "nothing better was found" in stop.reason
    assert sum(map(len, batches)) < 100


def test_the_response_surface_ends_no_worse_than_the_luckiest_run():
    """Scores with noise of 0.03: over 48 searches the difference has a standard error of about 0.003."""
    gains = []
    for seed in range(48):
        noise = random.Random(seed)
        scores = {}

        def loss(params, noise=noise, scores=scores):
            return scores.setdefault(tuple(params.values()), bowl(params) + noise.gauss(0, 0.03))

        batches, stop = drive(make("response-surface", 24, seed=seed), loss)
        lowest = min((p for batch in batches for p in batch), key=lambda p: loss(p.params))
        gains.append(bowl(lowest.params) - bowl(stop.best))
    error = statistics.stdev(gains) / math.sqrt(len(gains))
    assert statistics.fmean(gains) > -2 * error


def test_a_surface_of_the_nearest_trials_alone_finds_the_bottom_too(monkeypatch):
    monkeypatch.setattr(sys.modules["rlrs.search.methods.response_surface"], "NEAREST", 16)
    _, stop = drive(make("response-surface", 40), bowl)
    assert bowl(stop.best) < 3.02


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA])
def test_diverged_runs_stop_no_method_and_never_win(name):
    def loss(params):
        return math.inf if params["embedding.start"] > 6 or params["lr"] > 9e-3 else bowl(params)

    _, stop = drive(make(name, 16), loss)
    assert math.isfinite(stop.score)


@pytest.mark.parametrize("name", [*METHODS, *OPTUNA])
@pytest.mark.parametrize("options", [{}, {"prune": 0.1}, {"fidelity": {"steps": 0.5}}, {"retest": {"points": 2}}])
def test_when_every_run_diverges_a_method_still_ends_and_has_no_score(name, options):
    _, stop = drive(make(name, 16, **options), lambda params: math.inf)
    assert stop.score is None
    assert stop.best == START


@given(
    trials=st.integers(1, 40),
    method=st.sampled_from([*METHODS, "optuna.samplers.RandomSampler"]),
    prune=st.sampled_from([0.0, 0.05, 0.5]),
    fidelity=st.one_of(
        st.none(),
        st.builds(dict, steps=st.floats(0.01, 0.99), verify=st.integers(1, 6)),
        st.builds(dict, width=st.just(8), verify=st.integers(1, 6)),
    ),
    retest=st.builds(dict, points=st.integers(0, 3), seeds=st.integers(0, 3)),
    seed=st.integers(0, 3),
    worst=st.sampled_from([3.05, 3.2, math.inf]),
)
@settings(max_examples=60, deadline=None)
def test_every_setting_that_is_accepted_has_a_search_that_runs_and_ends(
    trials, method, prune, fidelity, retest, seed, worst
):
    options = {"trials": trials, "prune": prune, "fidelity": fidelity, "retest": retest, "seed": seed}
    try:
        made = make_method(Space.around(START), SearchConfig(method=method, **options), steps=100, window=20)
    except ConfigError as error:
        if "leaves no run to search with" not in str(error):
            raise
        return

    def results(proposal, number, batch):
        if bowl(proposal.params) > worst:
            return ended(proposal, number, batch, math.inf, 3)
        return trained(proposal, number, batch)

    history, result = follow(made, results)
    assert history[0].whole
    whole = [t for t in history if t.whole and t.measured]
    assert result.score in ([t.score for t in whole] or [None])
    # Where runs may end early, a method may ask for four times as many, and the first are not ended early.
    assert sum(t.result.steps for t in history) <= 100 * (trials * (4 if prune else 1) + 4)


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
        (
            "bayes",
            {},
            "search.method: no method 'bayes'; there are response-surface, local, learned, or an Optuna sampler",
        ),
        ("gp", {}, "by its import path, as optuna.samplers.GPSampler"),
        ("no.such.Sampler", {}, "search.method: cannot import 'no.such.Sampler'"),
        ("optuna.study.Study", {}, "'optuna.study.Study' is no Optuna sampler"),
        (
            "optuna.samplers.TPESampler",
            {"options": {"colour": 1}},
            "search.options: optuna.samplers.TPESampler cannot be",
        ),
        ("local", {"fidelity": {"steps": 0.5, "verify": 40}}, "search.trials=40 leaves no run to search with"),
    ],
)
def test_a_method_that_cannot_be_made_is_one_line(name, options, message):
    with pytest.raises(ConfigError) as caught:
        make(name, **options)
    assert message in str(caught.value)


def trained(proposal, number=0, batch=0):
    """A run whose windowed loss is its final one and a half, less what the rung still lacks."""
    loss, steps = bowl(proposal.params), proposal.steps or 100
    rungs = []
    for step, limit in proposal.prune.rungs if proposal.prune else ():
        rungs.append((step, loss + 2 * (1 - step / steps)))
        if limit is not None and rungs[-1][1] > limit:
            return ended(proposal, number, batch, math.inf, step, status="pruned", rungs=rungs)
    return ended(proposal, number, batch, loss, steps, rungs=rungs)


def test_pruning_ends_bad_trials_and_spends_what_it_saves():
    method = make("optuna.samplers.RandomSampler", 40, prune=0.1)
    history, stop = follow(method, trained)
    ended_early = [t for t in history if t.result.status == "pruned"]
    assert all(t.measured for t in history[:LEAST_RUNS])
    assert ended_early
    assert len(history) > 40
    assert 40 <= sum(t.result.steps for t in history) / 100 < 44
    assert f"{len(ended_early)} of {len(history)} trials ended at a rung" in stop.reason
    assert stop.score == min(t.score for t in history)


def test_a_pruned_search_answers_as_its_method_does():
    history, stop = follow(make("response-surface", 40, prune=0.1), trained)
    lowest = min(t.score for t in history if t.measured)
    assert stop.score == bowl(stop.best) <= lowest + 0.01


def test_every_eighth_trial_is_a_control_without_limits():
    history, _ = follow(make("optuna.samplers.RandomSampler", 30, prune=0.1), trained)
    limited = [any(limit is not None for _, limit in t.prune.rungs) for t in history]
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
    bad = [[Proposal(params={**START, "lr": START["lr"] * (2 + n / 10)}, move="bad")] for n in range(LEAST_RUNS)]
    late = Proposal(params={**START, "lr": START["lr"] * 2, "embedding.end": 9.0}, move="late")
    early = Proposal(params={**START, "lr": START["lr"] * 3}, move="early")
    history, _ = follow(Pruned(Fixed(*bad, [late], [early]), 100, 20, 99, 0.1), trained)
    first_limit = {
        t.move: next(step for step, limit in t.prune.rungs if limit is not None) for t in history[LEAST_RUNS:]
    }
    assert first_limit == {"late": 70, "early": 25}


def test_a_search_on_short_runs_ends_with_whole_ones():
    history, stop = follow(make("optuna.samplers.TPESampler", 20, fidelity={"steps": 0.25, "verify": 4}), trained)
    short = [t for t in history if t.steps == 25]
    assert 20 < len(short) <= 64
    assert [t.number for t in history if t.whole] == [0, *range(len(history) - 3, len(history))]
    assert history[0].params == START
    assert stop.score == min(t.score for t in history if t.whole)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_response_surface_opens_with_moves_that_differ(count):
    space = Space.around(dict(list(START.items())[:count]))
    opening = make_method(space, SearchConfig(trials=40, retest={"points": 0}), steps=100, window=20).ask([])
    assert len(opening) == 1 + min(8, 2**count)
    assert len({tuple(p.params.values()) for p in opening}) == len(opening)


def test_the_response_surface_begins_with_moves_of_the_size_asked_for():
    (batch, *_), _ = drive(make("response-surface", 9, options={"first_move": 1.25}), bowl)
    start, *moved = [proposal.params["embedding.start"] for proposal in batch]
    assert len(batch) == 9
    assert all(max(value / start, start / value) < 1.25**2.1 for value in moved)
    assert any(max(value / start, start / value) > 1.2 for value in moved)


def test_the_response_surface_goes_from_short_runs_to_whole_ones_within_its_budget():
    history, stop = follow(make("response-surface", 20, fidelity={"steps": 0.25}), trained)
    short = [t for t in history if t.steps == 25]
    assert history[0].whole
    assert history[0].params == history[1].params == START
    assert len(short) == 28  # 0.4 of 20 runs, less one whole run
    assert len(history) - len(short) + len(short) / 4 <= 20
    assert all(t.whole for t in history[len(short) + 1 :])
    assert bowl(stop.best) < 3.02  # from 3.2


def scored(scores):
    """What gives the proposals of a batch their scores in turn."""
    left = iter(scores)
    return lambda proposal, number, batch: ended(proposal, number, batch, next(left))


def test_a_lucky_seed_does_not_win():
    lucky, sound = {**START, "lr": 1e-3}, {**START, "lr": 2e-3}
    batch = [Proposal(params=p, move=m) for p, m in ((START, "start"), (lucky, "lucky"), (sound, "sound"))]
    method = Retested(Fixed(batch, best=lucky), points=2, seeds=2, seed=0)
    history = after([], method.ask([]), scored([3.0, 1.0, 1.1]))
    again = method.ask(history)
    assert [(p.params["lr"], p.seed) for p in again] == [
        (1e-3, 10**6),
        (1e-3, 10**6 + 1),
        (2e-3, 10**6),
        (2e-3, 10**6 + 1),
    ]
    stop = method.ask(after(history, again, scored([2.0, 2.0, 1.1, 1.2])))
    assert (stop.best, stop.score) == (sound, 1.1)
    assert "best of 2 points on 3 seeds, 0.5333 nats below the search's own best" in stop.reason


def test_cheap_runs_can_be_narrower():
    inner = Fixed([Proposal(params=START, move="start"), Proposal(params=BEST, move="best")], best=BEST)
    method = LowFidelity(inner, Space.around(START), None, 8, 2)
    assert [(p.width, p.whole) for p in method.ask([])] == [(None, True), (8, False), (8, False)]
    history = after([], method.ask([]), scored([1.5, 1.0, 0.9]))
    (again,) = method.ask(history)
    assert (again.params, again.whole) == (BEST, True)
    stop = method.ask(after(history, [again], scored([1.4])))
    assert (stop.best, stop.score) == (BEST, 1.4)


def noisy(params):
    return bowl(params) + 0.03 * math.sin(1e3 * sum(map(math.log, params.values())))


@pytest.mark.parametrize("retest", [0, 2])
def test_ended_early_a_search_answers_as_if_that_had_been_its_budget(retest):
    search = SearchConfig(trials=60, retest={"points": retest})
    method = make_method(Space.around(START), search, steps=100, window=20)
    history = []
    while len(history) < 25:
        history = after(history, method.ask(history), lambda p, n, b: ended(p, n, b, noisy(p.params)))
    stop = method.result(history, "no more time")
    _, whole = drive(make("response-surface", len(history)), noisy)
    assert (stop.best, stop.score, stop.reason) == (whole.best, whole.score, "no more time")


def test_ended_while_its_best_points_are_tested_again_a_search_answers_as_it_would_have_without():
    batch = [Proposal(params=START, move="start"), Proposal(params=BEST, move="best")]
    method = Retested(Fixed(batch, best=BEST), points=2, seeds=1, seed=0)
    stop = method.result(after([], batch, scored([2.0, 1.0])), "stopped")
    assert (stop.best, stop.score, stop.reason) == (BEST, 1.0, "over; not tested again: stopped")
