import math

import pytest
import torch
from torch import nn

import rlrs
from rlrs.ratios import Ratios
from rlrs.search import StorageError
from rlrs.search.ask_and_tell import SearchError
from rlrs.settings import ConfigError


def loss(trial):
    """Best at lr 0.01 with a ratio of 4 for the embedding at the start."""
    start = trial.ratios["embedding"].start
    return 2 + math.log(trial.lr / 0.01) ** 2 / 20 + math.log(start / 4) ** 2 / 20


@pytest.fixture
def search(tmp_path):
    def begin(**changes):
        options = {"lr": 4e-3, "trials": 16, "store": tmp_path / "trials.db", **changes}
        return rlrs.Search(options.pop("components", ["embedding", "attention", "norm"]), **options)

    return begin


def test_a_search_finds_rates_that_are_better_than_where_it_began(search, tmp_path):
    found, losses = search(), []
    for trial in found:
        losses.append(loss(trial))
        found.tell(trial, loss=losses[-1])
    assert len(losses) <= 16
    assert found.best.loss in losses
    assert found.best.loss < losses[0] - 0.05
    assert set(found.best.ratios) == {"embedding", "attention"}, "what a study searches; norms follow the base rate"
    found.best.ratios.save(tmp_path / "ratios.yaml")
    saved = Ratios.load(tmp_path / "ratios.yaml")
    assert saved == found.best.ratios
    assert saved.provenance["base"]["lr"] == found.best.lr


@pytest.mark.parametrize("method", ["response-surface", "local"])
def test_stopped_anywhere_and_begun_again_it_takes_the_same_course(search, tmp_path, method):
    whole = search(method=method, trials=8)
    for trial in whole:
        whole.tell(trial, loss=loss(trial))
    course = [dict(t.params) for t in whole._trials()]
    store, seen = tmp_path / "other.db", []
    while True:
        again = search(method=method, trials=8, store=store)
        waiting = again.ask()
        if not waiting:
            break
        seen.append((waiting[-1].number, dict(waiting[-1].params)))
        again.tell(waiting[-1], loss=loss(waiting[-1]))
    assert [params for _, params in sorted(seen, key=lambda pair: pair[0])] == course
    assert again.best == whole.best


def test_trials_of_a_batch_may_be_told_in_any_order(search, tmp_path):
    courses = []
    for name, order in (("one", 1), ("two", -1)):
        found = search(store=tmp_path / f"{name}.db", trials=8)
        while batch := found.ask():
            for trial in batch[::order]:
                found.tell(trial, loss=loss(trial))
        courses.append([trial.params for trial in found._trials()])
    assert courses[0] == courses[1]


def test_a_partition_gives_the_components(search):
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
    (first,) = search(components=rlrs.partition(model)).ask()[:1]
    assert set(first.ratios) == {"embedding", "unembedding"}


def test_the_next_trial_before_a_loss_is_one_line(search):
    begun = iter(search())
    next(begun)
    with pytest.raises(SearchError, match="trial 0 has no loss"):
        next(begun)


def test_a_loss_that_is_no_number_is_divergence_and_the_search_goes_on(search):
    found = search(trials=6)
    for trial in found:
        found.tell(trial, loss=math.nan if trial.number % 2 else 2.0 + trial.number)
    assert found.best.loss == 2.0


@pytest.mark.parametrize(
    "loss", [None, "x", torch.ones(2), 10**400, [1.0]], ids=["none", "text", "two", "huge", "list"]
)
def test_a_loss_that_is_no_float_is_one_line(search, loss):
    found = search()
    (trial, *_) = found.ask()
    with pytest.raises(SearchError, match="the loss of trial 0 should be one number"):
        found.tell(trial, loss=loss)
    with pytest.raises(SearchError, match="tell a trial that the search asked for, not 0"):
        found.tell(0, loss=1.0)


@pytest.mark.parametrize(
    ("components", "said"),
    [
        (nn.Sequential(nn.Linear(2, 2)), "not Sequential"),
        (nn.Linear(2, 2), "not Linear"),
        ("embedding", "'embedding'"),
        ([], "not []"),
        (["embedding", 3], "3"),
    ],
    ids=["model", "layer", "text", "none", "mixed"],
)
def test_what_are_no_components_is_one_line(search, components, said):
    with pytest.raises(ConfigError, match=r"components should be rlrs[.]partition") as caught:
        search(components=components)
    assert said in str(caught.value)


def test_a_loss_is_told_once(search):
    found = search()
    trial = found.ask()[0]
    found.tell(trial, loss=2.0)
    found.tell(trial, loss=2.0)
    with pytest.raises(SearchError, match=r"has a loss already: 2.0, and not 3"):
        found.tell(trial, loss=3.0)


def test_a_trial_of_another_search_is_refused(search, tmp_path):
    trial = search(lr=1e-3, store=tmp_path / "other.db").ask()[0]
    found = search()
    found.ask()
    with pytest.raises(SearchError, match="trial 0 is not one of this search"):
        found.tell(trial, loss=2.0)


def test_before_any_loss_there_is_no_best(search):
    with pytest.raises(SearchError, match="no trial has ended"):
        _ = search().best


def test_another_search_in_the_same_database_is_refused(search):
    search().ask()
    with pytest.raises(StorageError, match="search search there is another one: "):
        search(lr=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "genetic"}, "no method 'genetic'"),
        ({"trials": 0}, "trials: should be at least 1, not 0"),
        ({"store": None}, "store should be a file or a database's URL, not 'None'"),
        ({"store": "/"}, "store should be a file or a database's URL, not '/'"),
        ({"space": {"head.start": 1.0}}, "no parameter 'head.start'"),
    ],
)
def test_what_cannot_be_searched_is_one_line(search, changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        search(**changes)
    assert "\n" not in str(error.value)


def test_numbers_may_be_quoted_as_in_a_study(search):
    assert search(trials="12", lr="4e-3").ask()[0].lr == 4e-3


def test_more_trials_go_on_with_a_search_that_has_ended(search):
    short = search(trials=2)
    for trial in short:
        short.tell(trial, loss=loss(trial))
    assert short.ask() == []
    assert min(trial.number for trial in search(trials=8).ask()) == 2


def test_fewer_trials_than_were_asked_for_is_one_line(search):
    found = search(trials=8)
    for trial in found:
        found.tell(trial, loss=loss(trial))
    with pytest.raises(ConfigError, match=r"trials=4 should be [5-8] or more: so many were asked for before"):
        search(trials=4)
