"""A study whose ratios are learned, and studies that begin with what is known."""

import pytest
import yaml

from rlrs.data import prepare
from rlrs.ratios import Ratios
from rlrs.search import TrialStore
from rlrs.search.earlier import earlier_trials
from rlrs.settings import ConfigError, StudyConfig
from rlrs.study import resolve
from rlrs.study.kinds import ReferenceRuns
from rlrs.study.spaces import known_trials, search_spaces
from rlrs.study.stages import Stages
from rlrs.training import train

STUDY = """
name: learned
data: {tokenizer: bytes, sequence_length: 16, max_bytes: 200000}
training: {score_steps: 5, eval_tokens: 512, evaluations: 2}
proxy: {model: {d_model: 16, n_layers: 1, n_heads: 2}, steps: 20, batch_size: 4}
target: {model: {d_model: 16, n_layers: 2, n_heads: 2}, steps: 20, batch_size: 4}
search: {method: learned, trials: 2, lr: 8e-3, options: {reach: 8}}
transfer: {trials: 2}
comparison: {arms: [uniform, embedding_only, constant, rlrs], seeds: 2, horizons: [0.5]}
processes: 1
"""


def study(**search):
    plain = yaml.safe_load(STUDY)
    plain["search"] = {"trials": 8, "lr": 8e-3, **search}
    return StudyConfig.model_validate(plain)


class Serial:
    """An engine of this process."""

    def __init__(self, data):
        self.data, self.jobs, self.steps, self.slots = data, [], 0, 1

    @property
    def pending(self):
        return len(self.jobs)

    def submit(self, key, spec, folder=None, *, validate=True, prune=None):
        self.jobs.append((key, spec))

    def next(self, tick=None, timeout=None):
        key, spec = self.jobs.pop()
        self.steps += spec.steps
        return key, train(spec, self.data, validate=False)


class Quiet:
    """Progress that nobody watches."""

    def __getattr__(self, name):
        return lambda *values, **named: None


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The arms of a study that has searched, and its folder; every batch is a start of its own."""
    folder, asked = tmp_path_factory.mktemp("learned"), resolve(StudyConfig.model_validate(yaml.safe_load(STUDY)))
    data = prepare(asked.data, folder / "data")
    for _ in range(2):
        engine, store = Serial(data), TrialStore(folder / "trials.db")
        stages = Stages(asked, folder, ReferenceRuns(asked, data), engine, store, Quiet())
        arms = stages.search()
        store.leave()
    assert engine.steps == 0, "the second start finds everything there"
    recipe = arms["rlrs"].recipe
    Ratios(recipe.ratios, {"base": recipe.base_settings()}).save(folder / "ratios.yaml")
    return folder, arms


def test_what_one_run_learned_is_trained_again_and_handed_out(ended):
    folder, arms = ended
    learns, again = arms["rlrs"].search.trials
    assert learns.learn.reach == 8
    assert learns.learn.knots["attention"] == (0.0, 1.0)
    learned = learns.result.learned
    assert again.params["attention.end"] == pytest.approx(learned.ratios["attention"][1][1], rel=1e-5)
    assert again.params["attention.end"] != 1
    assert arms["rlrs"].search.best == again.params
    found = Ratios.load(folder / "ratios.yaml")
    assert found["attention"].end == again.params["attention.end"]
    held = arms["constant"].search.best
    assert held["attention.start"] == held["attention.end"] != 1
    assert arms["uniform"].search.trials[0].learn is None


def test_learned_ratios_are_where_another_search_begins(ended):
    found = Ratios.load(ended[0] / "ratios.yaml")
    resolved = resolve(study(prior=str(ended[0] / "ratios.yaml")))
    spaces = search_spaces(resolved, ["embedding", "attention", "feed_forward", "unembedding"])
    start = spaces["rlrs"].start()
    assert start["attention.start"] == found["attention"].start
    assert start["lr"] == found.provenance["base"]["lr"]
    assert spaces["uniform"].start()["lr"] == 8e-3
    assert resolve(resolved) == resolved
    assert resolved.search.prior.ratios == resolved.search.start


def test_an_earlier_study_is_known_by_its_trials(ended):
    resolved = resolve(study(prior=str(ended[0] / "trials.db")))
    known = known_trials(resolved, "uniform")
    theirs = earlier_trials(ended[0] / "trials.db")["proxy/uniform"]
    assert [(dict(point), score) for point, score in known] == [(trial.params, trial.score) for trial in theirs]
    assert search_spaces(resolved, ["embedding"])["uniform"].start()["lr"] == theirs[0].params["lr"]
    # It is in the settings, so that the study goes on without the file.
    assert StudyConfig.model_validate(resolved.model_dump(mode="json")) == resolved


def test_priors_that_cannot_be_used_are_one_line(tmp_path, ended):
    for prior, message in (
        ("paper-dens", "search.prior: no preset or file 'paper-dens'; did you mean 'paper-dense'"),
        (str(tmp_path / "trials.db"), "there is no such file"),
        ("paper-moe", "search.prior: ratios name router"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolve(study(prior=prior))
    with pytest.raises(ValueError, match="give one of them"):
        study(prior="paper-dense", start="paper-dense")
    with pytest.raises(ConfigError, match="earlier trials are for method=response-surface, not 'local'"):
        resolve(study(prior=str(ended[0] / "trials.db"), method="local"))
