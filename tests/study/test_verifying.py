"""`rlrs verify` and the first stage of `rlrs run`: a study's own trainer, sound and with faults, in a process."""

import json
import logging
import sys

import pytest

from rlrs.cli import main
from rlrs.search import EngineError
from rlrs.settings import ConfigError, study_from
from rlrs.study import run as run_study
from rlrs.study import verify_study
from rlrs.study.directory import StudyError
from rlrs.study.python import _Silent
from rlrs.yaml_files import dump_yaml

TRAINER = """
import torch
from torch import nn


def make(fault="none"):
    return nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 8), nn.Linear(8, 16, bias=False))


def train(run):
    fault = run.args["fault"]
    torch.manual_seed(run.seed)
    model = make()
    if fault == "crash":
        raise ValueError("no space left")
    if fault == "silent":
        return
    if fault == "unknown":
        run.lr, run.ratios
    elif fault in ("own", "own, one rate"):
        optimizer = torch.optim.AdamW(run.param_groups(model))
        run.watch(optimizer)
    elif fault == "no model":
        import rlrs
        optimizer = torch.optim.AdamW(rlrs.param_groups(model, run.ratios, lr=run.lr))
        scheduler = rlrs.RelativeLR(
            optimizer, run.ratios, total_steps=run.steps, warmup_steps=run.warmup_steps,
            final_fraction=run.final_fraction,
        )
        run.watch(optimizer)
    else:
        groups = run.param_groups(model)
        if fault == "missing":
            groups = [group for group in groups if group["name"] != "other"]
        optimizer = torch.optim.AdamW(groups)
        scheduler = run.scheduler(optimizer)
    for step in range(run.steps):
        tokens = torch.arange(16)
        nn.functional.cross_entropy(model(tokens), (tokens + 1) % 16).backward()
        if fault in ("own", "own, one rate"):
            rates = run.ratios.rates(
                step, lr=run.lr, total_steps=run.steps, warmup_steps=run.warmup_steps, final_fraction=run.final_fraction
            )
            for group in optimizer.param_groups:
                group["lr"] = rates["base" if fault == "own, one rate" else group["component"]]
        if fault == "inert":
            model[0].weight.grad *= 0.1
        if fault != "unknown":
            if fault == "two steps":
                optimizer.step()
            optimizer.step()
            optimizer.zero_grad()
        if fault not in ("own", "own, one rate", "unknown"):
            for _ in range(2 if fault == "twice" else 1):
                scheduler.step()
        if run.report(step + 1, train_loss=1.0):
            return
    run.finish(valid_loss=1.0)
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(TRAINER)
    monkeypatch.chdir(tmp_path)

    def make(fault="none", **changes):
        plain = {
            "name": "tiny",
            "trainer": {"call": "mine.py:train", "model": "mine.py:make", **changes.pop("trainer", {})},
            "proxy": {"steps": 30, "set": {"fault": fault}},
            "target": {"steps": 30, "set": {"fault": fault}},
            "training": {"score_steps": 2, "warmup_fraction": 0.1},
            "search": {"trials": 1, "lr": 4e-3, "method": "local"},
            **changes,
        }
        return study_from(plain, "study.yaml")

    return make


@pytest.mark.long
@pytest.mark.parametrize("fault", ["none", "own"])
def test_sound_trainers_have_no_finding(study, tmp_path, fault):
    report = verify_study(study(fault), tmp_path / "run", _Silent())
    assert report.ok, str(report)
    assert {"embedding", "unembedding"} <= set(report.components)
    assert report.steps == 3


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "kind", "component"),
    [
        ("missing", "missing", "other"),
        ("inert", "inert", "embedding"),
        ("twice", "pace", "embedding"),
        ("two steps", "twice", "unembedding"),
        ("own, one rate", "rate", "embedding"),
    ],
)
def test_a_fault_of_the_trainer_is_named(study, tmp_path, fault, kind, component):
    report = verify_study(study(fault), tmp_path / "run", _Silent())
    assert (kind, component) in {(finding.kind, finding.component) for finding in report.findings}, str(report)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "note"),
    [
        ("unknown", "the run's optimizer is not known: use run.scheduler or run.watch"),
        ("no model", "the run's model is not known"),
    ],
)
def test_what_is_not_known_is_no_finding_and_not_sound(study, tmp_path, fault, note):
    report = verify_study(study(fault), tmp_path / "run", _Silent())
    assert not report.ok
    assert not report.findings
    assert any(note in each for each in report.notes)


@pytest.mark.parametrize(
    ("fault", "said"),
    [("crash", r"ended with code 1; its last lines: .*no space left"), ("silent", "before it had reported anything")],
)
def test_a_trainer_that_fails_is_one_line_with_its_folder(study, tmp_path, fault, said):
    with pytest.raises(EngineError, match=said) as error:
        verify_study(study(fault), tmp_path / "run", _Silent())
    assert str(tmp_path / "run" / "verify") in str(error.value)


def test_a_program_whose_output_is_read_cannot_be_asked(tmp_path):
    sizes = {"steps": 3, "set": {}}
    trainer = {
        "command": "true {lr} {steps} {seed} {ratios}",
        "components": ["embedding"],
        "loss": {"pattern": "(x)"},
        "valid_loss": {"pattern": "(y)"},
    }
    study = study_from({"name": "x", "trainer": trainer, "proxy": sizes, "target": sizes}, "study.yaml")
    with pytest.raises(StudyError, match=r"cannot be asked for its rates: put `with rlrs.verify"):
        verify_study(study, tmp_path / "run", _Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_study_ends_before_its_first_trial_and_goes_on_when_the_trainer_is_put_right(study, tmp_path):
    settings, folder = study(), tmp_path / "run"
    (tmp_path / "mine.py").write_text(TRAINER.replace('"missing"', '"none"'))
    with pytest.raises(StudyError, match=r"other missing.*: in no optimizer") as error:
        run_study(settings, folder, _Silent(), until="search")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "verify"], "nothing was begun, nothing is claimed"
    (tmp_path / "mine.py").write_text(TRAINER)
    run_study(settings, folder, _Silent(), until="search")
    stamp = (folder / "verify" / "run.json").stat().st_mtime_ns
    (tmp_path / "mine.py").write_text(TRAINER.replace('"missing"', '"none"'))
    run_study(settings, folder, _Silent(), until="search")
    assert (folder / "verify" / "run.json").stat().st_mtime_ns == stamp, "once is enough"


def test_a_study_may_go_without(study, tmp_path):
    run_study(study("missing", trainer={"verify": False}), tmp_path / "run", _Silent(), until="search")
    assert not (tmp_path / "run" / "verify").exists()


@pytest.mark.long
def test_a_trainer_that_cannot_be_verified_is_said_and_ends_no_study(study, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "rlrs.study"):
        run_study(study("no model"), tmp_path / "run", _Silent(), until="search")
    assert "could not be verified: the run's model is not known" in caplog.text


@pytest.mark.parametrize(("fault", "code"), [("none", 0), ("missing", 1), ("unknown", 2), ("crash", 2)])
def test_exit_codes_for_ci(study, tmp_path, capsys, monkeypatch, fault, code):
    plain = study(fault).model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "study.yaml").write_text(dump_yaml(plain))
    monkeypatch.setattr(sys, "argv", ["rlrs", "verify", "study.yaml", "--out", str(tmp_path / "run"), "--steps", "2"])
    with pytest.raises(SystemExit) as stop:
        main()
    written = capsys.readouterr()
    assert (stop.value.code or 0) == code, written
    if code < 2:
        assert "embedding" in written.out
        assert ("missing" in written.out) == bool(code)
        assert json.loads((tmp_path / "run" / "verify" / "run.json").read_text())["verify"] == 2


def test_the_reference_trainer_is_verified_too(tmp_path):
    model = {"d_model": 16, "n_layers": 1, "n_heads": 2}
    scale = {"model": model, "steps": 20, "batch_size": 2}
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes a dull corpus. " * 400)
    plain = {
        "name": "ours",
        "data": {"source": f"files:{text}", "tokenizer": "bytes", "sequence_length": 16, "valid_fraction": 0.2},
        "training": {"warmup_fraction": 0.1, "eval_tokens": 64},
        "proxy": scale,
        "target": scale,
    }
    report = verify_study(study_from(plain, "study.yaml"), tmp_path / "run", _Silent())
    assert report.ok, str(report)
    assert set(report.components) >= {"embedding", "attention", "feed_forward", "unembedding"}


def test_whether_to_verify_is_a_yes_or_a_no(study):
    with pytest.raises(ConfigError, match=r"trainer.verify"):
        study(trainer={"verify": "perhaps"})
