"""One study by command, by function, by the reference trainer, and by command on PostgreSQL: the same losses."""

import sys
from pathlib import Path

import pytest

import postgresql
from rlrs.data import prepare
from rlrs.settings import DataConfig, study_from
from rlrs.study import run as run_study
from rlrs.study.python import _Silent

SCRIPT = Path(__file__).parent / "reference_script.py"
STUDY = {
    "name": "same",
    "training": {"warmup_fraction": 0.2, "final_fraction": 0.1, "score_steps": 3},
    "search": {"trials": 2, "lr": 3e-3, "method": "local", "multipliers": [3], "retest": {"points": 0, "seeds": 0}},
    "transfer": {"trials": 1},
    "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
    "processes": 2,
}
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Settings of a small text; a folder with its tokens."""
    folder = tmp_path_factory.mktemp("same")
    (folder / "text.txt").write_text("".join(f"{i} and {i + 1} come one after the other.\n" for i in range(600)))
    settings = {"source": f"files:{folder}/text.txt", "tokenizer": "bytes", "sequence_length": 16}
    prepare(DataConfig(**settings), folder / "tokens")
    return settings, str(folder / "tokens")


def numbers(results):
    """Everything that was found, whatever the runs are called and however long they took."""
    searched = {
        arm: [(t.params, t.score, t.result.steps) for part in (a.search, a.transfer) for t in part.trials]
        for arm, a in results.arms.items()
    }
    runs = [(run.arm, run.seed, run.steps, run.valid_loss, run.score) for run in results.comparison.runs]
    return searched, runs, results.comparison.decision


def own(trainer, more, **settings):
    sizes = {name: {"steps": steps, "set": {"width": w, **more}} for name, w, steps in SIZES}
    return study_from({**STUDY, **sizes, **settings, "trainer": {"model": f"{SCRIPT}:make", **trainer}}, "study.yaml")


SIZES = (("proxy", 16, 6), ("target", 32, 8))


@pytest.fixture(scope="module")
def by_reference(data, tmp_path_factory):
    """The study of the reference trainer."""
    model = {"n_layers": 1, "n_heads": 2}
    sizes = {
        name: {"steps": steps, "batch_size": 4, "model": {**model, "d_model": width}} for name, width, steps in SIZES
    }
    training = {**STUDY["training"], "eval_tokens": 256, "checkpoint_every": 1000}
    study = study_from({**STUDY, **sizes, "data": data[0], "training": training}, "study.yaml")
    return numbers(run_study(study, tmp_path_factory.mktemp("reference") / "run", _Silent()))


@pytest.fixture
def by_command(data):
    """Settings of the study by command."""

    def make(**settings):
        return own({"command": [sys.executable, str(SCRIPT), data[1]]}, {}, **settings)

    return make


def test_a_command_has_the_losses_of_the_reference_trainer(by_command, by_reference, tmp_path):
    assert numbers(run_study(by_command(), tmp_path / "run", _Silent())) == by_reference


def test_a_function_has_the_losses_of_the_reference_trainer(data, by_reference, tmp_path):
    study = own({"call": f"{SCRIPT}:train"}, {"data": data[1]})
    assert numbers(run_study(study, tmp_path / "run", _Silent())) == by_reference


@pytest.mark.skipif(postgresql.BINARIES is None, reason="no PostgreSQL server: apt-get install postgresql")
def test_a_command_on_postgresql_has_the_same_losses_and_a_second_driver_finds_them(by_command, by_reference, tmp_path):
    with postgresql.server() as url:
        assert numbers(run_study(by_command(storage=url), tmp_path / "one", _Silent())) == by_reference
        again = run_study(by_command(storage=url), tmp_path / "two", _Silent(), until="search")
    assert [t.score for t in again.arms["rlrs"].search.trials] == [
        score for _, score, _ in by_reference[0]["rlrs"][: len(again.arms["rlrs"].search.trials)]
    ]
    assert not (tmp_path / "two" / "runs").exists()
