"""`search.method: learned`: which runs learn, what is trained again, and what the search answers with."""

import math

import pytest
from driving import after, ended, follow

from rlrs.records import Learned, SearchResult
from rlrs.search import Space, make_method, read_space
from rlrs.search.methods import LearnedInRuns, ResponseSurface
from rlrs.search.space_settings import held_constant
from rlrs.settings import ConfigError, SearchConfig

START = {
    "lr": 8e-3, "final_fraction": 0.05, "embedding.start": 5.0, "embedding.end": 0.5, "router.start": 1.0,
    "router.end": 1.0,
}  # fmt: skip


def make(budget, space=None, **options):
    settings = SearchConfig(method="learned", trials=budget, retest={"points": 0}, **options)
    return make_method(space or Space.around(START), settings, steps=100, window=10)


def course(ratio, lr=8e-3):
    knots = {"embedding": ((0.0, ratio), (1.0, ratio / 8)), "router": ((0.0, 0.5), (1.0, 0.25))}
    return Learned(lr=lr, final_fraction=0.05, ratios=knots, deviations={}, residuals={})


def results(proposal, number, batch):
    """Runs with a low base rate learn a higher ratio, and end lower."""
    lr = proposal.params["lr"]
    if proposal.learn is None:
        return ended(proposal, number, batch, 3.0 + abs(math.log(proposal.params["embedding.start"] / 12)))
    return ended(proposal, number, batch, 3.5 + lr, learned=course(0.1 / lr, lr))


@pytest.mark.parametrize(("budget", "learn", "again"), [(1, 1, 0), (2, 1, 1), (3, 2, 1), (6, 3, 3), (12, 5, 5)])
def test_half_of_the_runs_learn_and_the_others_train_what_was_learned(budget, learn, again):
    history, _ = follow(make(budget), results)
    assert [trial.learn is not None for trial in history] == [True] * learn + [False] * again
    assert [trial.params["lr"] for trial in history[:3] if trial.learn] == [8e-3, 1.6e-2, 4e-3][: min(learn, 3)]
    assert all(trial.params["embedding.start"] == 5.0 for trial in history[:learn])
    assert not any(trial.whole for trial in history[:learn])


def test_the_best_of_what_was_trained_again_is_the_answer():
    history, result = follow(make(6), results)
    assert result.best["embedding.start"] == pytest.approx(0.1 / 8e-3)
    assert result.best["embedding.end"] == pytest.approx(0.1 / 8e-3 / 8, rel=1e-5)
    assert result.best["router.end"] == 0.25
    assert result.score == min(trial.score for trial in history if trial.whole)
    assert result.reason == "3 runs learned"


def test_of_one_run_the_answer_is_what_it_learned():
    _, result = follow(make(1), results)
    assert (result.best["router.start"], result.score) == (0.5, 3.508)


def test_runs_that_diverge_are_passed_over():
    def some(proposal, number, batch):
        return ended(proposal, number, batch, math.inf) if number == 0 else results(proposal, number, batch)

    history, result = follow(make(4), some)
    assert [trial.learn is not None for trial in history] == [True, True, False]
    assert result.best["lr"] == 1.6e-2
    _, nothing = follow(make(4), lambda p, n, b: ended(p, n, b, math.inf))
    assert nothing.score is None


def test_it_is_a_function_of_the_history_alone():
    history, _ = follow(make(4), results)
    for cut in (0, 2, 4):
        asked = make(4).ask(history[:cut])
        if isinstance(asked, SearchResult):
            assert cut == 4
        else:
            kept = {"params", "move", "learn"}
            assert [p.model_dump(include=kept) for p in asked] == [
                t.model_dump(include=kept) for t in history[cut : cut + len(asked)]
            ]
    assert after(history[:2], make(4).ask(history[:2]), results)[2:] == history[2:]


def test_ratios_that_are_held_are_fitted_as_held():
    method = make(2, held_constant(Space.around(START)))
    assert isinstance(method, LearnedInRuns)
    [proposal] = method.ask([])
    assert proposal.learn.knots == {"embedding": (0.0,), "router": (0.0,)}


def test_only_free_ratios_are_learned_at_the_knots_that_are_searched():
    space = read_space({"embedding": "fixed", "router.50%": "search"}, START, ["embedding", "router"], {})
    [proposal] = make(2, space).ask([])
    assert proposal.learn.knots == {"router": (0.0, 0.5, 1.0)}


def test_without_ratios_to_learn_the_base_is_searched():
    assert isinstance(make(4, Space.around({"lr": 8e-3, "final_fraction": 0.05})), ResponseSurface)


def test_settings_that_do_not_go_with_it_are_named():
    with pytest.raises(ValueError, match="prune is not for method=learned"):
        SearchConfig(method="learned", prune=0.1)
    with pytest.raises(ConfigError, match="learned has no 'sigma'; it has reach, spread, bound, base"):
        make(2, options={"sigma": 1})
    with pytest.raises(ConfigError, match=r"search\.options\.reach should be a number above 0"):
        make(2, options={"reach": -1.0})
    with pytest.raises(ConfigError, match=r"search\.options\.base: should be true or false, not 1"):
        make(2, options={"base": 1})
