"""`rlrs doctor` says what stands in the way, and what to do about it."""

import json
import sys
import tomllib
from pathlib import Path

import pytest

from rlrs import doctor
from rlrs.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlrs", "doctor", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr().out

    return run


def checks(name, found):
    return [check for check in found if check.name == name]


def test_every_extra_is_known_with_what_it_is_for():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "integrations"}


def test_a_report_as_json_has_environment_and_a_run_that_learnt(call, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SANITY_SECONDS", 120.0)
    code, out = call(tmp_path, "--json")
    report = json.loads(out)
    assert report["environment"]["torch"]
    (trainer,) = (check for check in report["checks"] if check["name"] == "trainer")
    assert trainer["status"] == "ok", trainer
    assert code == any(check["status"] == "fix" for check in report["checks"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_to_be_mended_is_printed_and_the_code_is_1(call, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_sanity", lambda: iter(()))
    code, out = call(tmp_path / "none")
    assert code == 1
    assert "FIX   disk" in out
    assert out.endswith(" to mend\n")


def test_a_run_that_does_not_learn_or_takes_too_long_is_said(monkeypatch):
    monkeypatch.setattr(doctor, "SANITY_SECONDS", 0.0)
    (slow,) = doctor._sanity()
    assert (slow.status, slow.found) == ("note", "1 of 120 steps in 0 s")
    spec, data = doctor._small_run()
    from dataclasses import replace

    monkeypatch.setattr(doctor, "SANITY_SECONDS", 120.0)
    monkeypatch.setattr(doctor, "_small_run", lambda: (replace(spec, lr=1e-9, steps=10), data))
    (dull,) = doctor._sanity()
    assert dull.status == "fix"
    assert "a uniform guess has 4.16" in dull.found


def test_a_version_out_of_its_bounds_is_to_be_mended(monkeypatch):
    assert doctor._within("2.13.0+cpu", ">=2.6")
    assert doctor._within("5.0.0", "<6,>=5")
    assert not doctor._within("6.0", "<6,>=5")
    assert not doctor._within("4.9", "<6,>=5")
    have = {"torch": "2.5.1", "numpy": "2.4.0", "PyYAML": None}
    monkeypatch.setattr(doctor, "_version", have.get)
    monkeypatch.setattr(doctor, "requirements", lambda extra: {"torch": ">=2.6", "numpy": ">=1.26", "PyYAML": ">=6"})
    (packages,) = checks("packages", doctor._versions())
    assert packages.status == "fix"
    assert packages.remedy == "pip install 'torch>=2.6' 'PyYAML>=6'"


def test_an_extra_that_is_missing_is_a_note_with_what_it_is_for(monkeypatch):
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "ray" else version(name))
    (missing,) = (check for check in doctor._extras() if check.found.startswith("not installed"))
    assert missing.status == "note"
    assert "ray (runs on a Ray cluster: ray)" in missing.found


def test_more_threads_than_cores_are_to_be_mended(monkeypatch):
    import torch

    monkeypatch.setattr(doctor, "cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    (threads,) = checks("threads", doctor._threads())
    assert (threads.status, threads.remedy.partition(":")[0]) == ("fix", "set OMP_NUM_THREADS=2")


def test_little_disk_is_a_note_and_none_is_to_be_mended(monkeypatch, tmp_path):
    def free(gib):
        usage = type("Usage", (), {"free": gib * 2**30, "total": 2**40})
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
        return [check.status for check in doctor._disk(tmp_path)]

    assert [free(100), free(3), free(0.5)] == [["ok"], ["note"], ["fix"]]
