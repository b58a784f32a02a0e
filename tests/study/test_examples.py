"""Four trainers in a study, each changed in at most ten lines: the script before, and the one that a study starts.

torchtitan's is run where it is installed: CONTRIBUTING.md says how.
"""

import difflib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rlrs
from rlrs.records.checked import read_checked
from rlrs.runs import Run
from rlrs.runs.asked import ReportedResult
from rlrs.settings import kept, load_study, study_from
from rlrs.study import resolve, verify_study
from rlrs.study import run as run_study
from rlrs.study.python import _Silent

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = {
    "nanogpt": (),
    "study_trainer": ("transformers", "accelerate"),
    "study_lightning": ("lightning",),
    "study_torchtitan": ("torchtitan", "triton", "tyro", "spmd_types"),
}


OF_TORCHTITAN = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of what torchtitan imports


@pytest.fixture(params=[pytest.param(name, marks=OF_TORCHTITAN if "titan" in name else ()) for name in NAMES])
def example(request, monkeypatch):
    """The folder of an example whose trainer is installed; `python` is this one."""
    if any(importlib.util.find_spec(module) is None for module in NAMES[request.param]):
        pytest.skip(f"{NAMES[request.param][0]} is not installed")
    monkeypatch.chdir(EXAMPLES / request.param)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(rlrs.__file__).parents[1]), prepend=os.pathsep)
    return EXAMPLES / request.param


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_changed_in_at_most_ten_lines(name):
    before, after = ((EXAMPLES / name / file).read_text().splitlines() for file in ("before.py", "train.py"))
    new = [line for line in difflib.ndiff(before, after) if line.startswith("+ ") and line.strip() != "+"]
    assert 0 < len(new) <= 10, new
    assert len(before) <= 150


@pytest.mark.long
def test_the_script_without_the_changes_runs(example, tmp_path):
    options = ["--steps", "2", "--layers", "1"]
    options += ["--folder", str(tmp_path)] if "trainer" in example.name else []
    done = subprocess.run([sys.executable, "before.py", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def tiny(example):
    """The example's study, in seconds."""
    study = kept(load_study("study.yaml"))
    for name in ("proxy", "target"):
        study[name] |= {"steps": 6, "set": {**study[name]["set"], "layers": 1}}
    return study_from(
        {
            **study,
            "training": {"warmup_fraction": 0.2, "final_fraction": 0.1, "score_steps": 3},
            "search": {"trials": 2, "lr": 3e-3, "method": "local", "retest": {"points": 0, "seeds": 0}},
            "transfer": {"trials": 1},
            "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
            "processes": 2,
        },
        "study.yaml",
    )


@pytest.mark.long
def test_its_rates_are_real_and_its_study_runs_to_the_end_of_the_search(example, tmp_path):
    report = verify_study(tiny(example), tmp_path / "run", _Silent())
    assert report.ok, str(report)
    assert set(report.components) >= {"embedding", "attention", "feed_forward", "unembedding"}
    found = run_study(tiny(example), tmp_path / "run", _Silent(), until="search")
    assert all(trial.result.status == "finished" for trial in found.arms["rlrs"].search.trials)


def test_its_study_can_be_run_as_it_stands(example):
    assert resolve(load_study("study.yaml")).trainer.command is not None


@pytest.mark.parametrize("trainer", ["Trainer", "Lightning"])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_run_that_is_pruned_ends_the_training(trainer, tmp_path, monkeypatch):
    pytest.importorskip("transformers" if trainer == "Trainer" else "lightning")
    folder = "study_trainer" if trainer == "Trainer" else "study_lightning"
    spec = importlib.util.spec_from_file_location(f"pruned_{folder}", EXAMPLES / folder / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "run.json").write_text(
        '{"id": "a", "steps": 40, "lr": 0.003, "prune": {"rungs": [[3, 0.5]], "window": 1}}'
    )
    monkeypatch.setenv("RLRS_RUN", str(tmp_path / "run.json"))
    options = ["--steps", "40", "--layers", "1"]
    script.main([*options, "--folder", str(tmp_path / "out")] if trainer == "Trainer" else options)
    result = read_checked(tmp_path / "result.json", ReportedResult, None, "result", "")
    assert (result.status, result.steps) == ("pruned", 3)
    assert Run.read(tmp_path / "run.json").steps == 40
