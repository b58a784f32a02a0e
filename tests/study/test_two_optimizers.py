"""One tuned rate per optimizer, in a trainer of the user's own that has Muon beside AdamW."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import two_optimizers

from rlrs.runs import OwnRun, Run
from rlrs.runs.asked import RunError
from rlrs.search.space import run_at
from rlrs.settings import ConfigError, TrainingConfig, study_from
from rlrs.study import resolve, verify_study
from rlrs.study import run as run_study
from rlrs.study.python import _Silent
from rlrs.study.spaces import search_spaces

SCRIPT = Path(two_optimizers.__file__)
RUN = {"steps": 6, "lr": 0.01, "muon_rate": 0.25, "ratios": {"attention": (0.5, 0.25)}, "args": {"width": 8}}


def plain(**changes):
    """A study by function, with one rate per optimizer as a control."""
    sizes = {name: {"steps": steps, "set": {"width": 8}} for name, steps in (("proxy", 6), ("target", 8))}
    return {
        "name": "two",
        "trainer": {"call": f"{SCRIPT}:train", "model": f"{SCRIPT}:make"},
        **sizes,
        "training": {"optimizer": "muon", "score_steps": 3},
        "search": {"trials": 2, "lr": 0.01, "retest": {"points": 0}},
        "transfer": {"trials": 1},
        "comparison": {"arms": ["uniform", "per_optimizer", "rlrs"], "seeds": 2, "horizons": []},
        "processes": 2,
        **changes,
    }


def study(**changes):
    return study_from(plain(**changes), "study.yaml")


def asked_run(rate=1.0, optimizer="muon"):
    training = TrainingConfig(optimizer=optimizer, muon_rate=rate)
    trainer = study().trainer
    return OwnRun(trainer=trainer, args={}, training=training, steps=4, seed=0, lr=0.01, final_fraction=0.1, ratios={})


@pytest.mark.parametrize("stateless", [False, True])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_run_with_muons_own_base_rate_is_what_was_asked(stateless):
    run = Run(**RUN)
    two_optimizers.train(run, stateless=stateless)
    assert run.result.status == "finished"
    assert run.muon_lr == 0.0025
    # Over Muon's base rate, so that the matrices and the biases of a component are one: half of 0.01 at the start.
    assert run.result.rates["attention"] == pytest.approx(0.005, rel=0.1)


@pytest.mark.parametrize("train", [two_optimizers.deaf, two_optimizers.half])
def test_a_run_that_takes_another_rate_for_muon_is_named(train):
    said = "no optimizer has Muon's base rate of 0.0025, 0.25 times the other's" if train.__name__ == "deaf" else None
    with pytest.raises(RunError, match=said or "no optimizer has Muon's base rate"):
        train(Run(**RUN))


def test_a_script_that_never_asks_for_muons_rate_is_named():
    run = Run(steps=1, lr=0.01, muon_rate=0.25)
    run.report(1, train_loss=2.0)
    with pytest.raises(RunError, match="no optimizer has Muon's base rate"):
        run.finish(valid_loss=2.0)


def test_runs_of_one_optimizer_keep_their_ids():
    assert asked_run().id == asked_run(optimizer="adamw").id
    assert asked_run(rate=0.5).id != asked_run().id
    moved = run_at({"muon_rate": 0.5}, asked_run())
    assert moved.id == asked_run(rate=0.5).id
    assert (moved.asked().muon_rate, moved.placeholders("f")["muon_rate"]) == (0.5, "0.5")
    assert replace(asked_run(), lr=0.02).asked().muon_rate == 1.0


def test_the_arm_searches_one_rate_more_than_uniform():
    spaces = search_spaces(resolve(study()), ["embedding", "attention"])
    assert spaces["uniform"].names == ["lr", "final_fraction"]
    assert spaces["per_optimizer"].names == ["lr", "final_fraction", "muon_rate"]
    every = search_spaces(resolve(study(search={"space": {"muon_rate": "search"}})), ["embedding", "attention"])
    assert all("muon_rate" in space.names for space in every.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {}}, "comparison.arms: per_optimizer needs two optimizers: training.optimizer should be muon"),
        (
            {"training": {"optimizer": "sgd"}, "comparison": {}},
            "training.optimizer=sgd: the optimizer is your",
        ),
        (
            {"trainer": {"transformers": {}}, "proxy": {"steps": 6, "set": {"model": "there"}}},
            "muon says that it has Muon beside another one, and is for command and call",
        ),
        ({"proxy": {"steps": 6, "set": {"muon_rate": 1}}}, "the study gives every run its own muon_rate"),
        (
            {
                "trainer": {
                    "command": f"{sys.executable} -c pass {{lr}} {{steps}} {{seed}} {{ratios}}",
                    "components": ["embedding"],
                    "loss": {"pattern": "loss (.*)"},
                    "valid_loss": {"pattern": "valid (.*)"},
                }
            },
            "trainer.command: the program never gets muon_rate: give it {muon_rate}",
        ),
    ],
)
def test_what_cannot_be_is_one_line(changes, said):
    with pytest.raises(ConfigError) as error:
        resolve(study(**changes))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_a_whole_study_with_one_rate_per_optimizer(tmp_path):
    assert verify_study(study(), tmp_path / "run", _Silent()).ok
    found = run_study(study(), tmp_path / "run", _Silent())
    arm = found.arms["per_optimizer"]
    assert len({trial.params["muon_rate"] for trial in arm.search.trials}) > 1
    assert all(trial.result.status == "finished" for trial in arm.search.trials)
    assert arm.recipe.muon_rate == arm.search.best["muon_rate"]
    (run,) = {r.id for r in found.comparison.runs if (r.arm, r.seed) == ("per_optimizer", 1)}
    asked = json.loads((tmp_path / "run" / "runs" / run / "run.json").read_text())
    assert asked["muon_rate"] == arm.recipe.muon_rate


@pytest.mark.long
def test_a_trainer_that_takes_one_rate_for_both_is_found_before_the_first_trial(tmp_path):
    own = study(trainer={"call": f"{SCRIPT}:deaf", "model": f"{SCRIPT}:make"})
    with pytest.raises(Exception, match=r"no optimizer has Muon's base rate of 0\.0075.*could not be verified"):
        run_study(own, tmp_path / "run", _Silent())
    assert not (tmp_path / "run" / "trials.db").exists()
