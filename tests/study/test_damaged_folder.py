"""What is said, before anything is trained, of a run directory whose files were damaged, emptied or replaced."""

import shutil
import sys

import pytest

from rlrs.audit import Trail
from rlrs.cli import main
from rlrs.settings import ConfigError, study_from
from rlrs.study import run as run_study
from rlrs.study.directory import StudyError
from rlrs.study.python import _Silent
from rlrs.study.resolve import check_places
from rlrs.yaml_files import dump_yaml

PROGRAM = """
import sys
lr, steps, seed = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for step in range(1, steps + 1):
    print("step", step, "loss", 4 / step + lr + seed / 100)
print("valid", 1 + lr + seed / 100)
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)
    command = [sys.executable, "-S", str(path), "{lr}", "{steps}", "{seed}", "{embedding.start}"]
    losses = {
        "loss": {"pattern": r"step (?P<step>\d+) loss (?P<value>\S+)"},
        "valid_loss": {"pattern": r"valid (\S+)"},
    }
    plain = {
        "name": "theirs",
        "trainer": {"command": command, "components": ["embedding"], **losses},
        "proxy": {"steps": 4, "set": {}},
        "target": {"steps": 6, "set": {}},
        "training": {"score_steps": 2, "warmup_fraction": 0.1},
        "search": {"trials": 2, "lr": 4e-3, "retest": {"points": 0, "seeds": 0}},
        "transfer": {"trials": 1},
        "comparison": {"arms": ["uniform", "rlrs"], "seeds": 2, "horizons": []},
        "processes": 2,
    }
    return study_from(plain, "study.yaml")


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_study(settings, folder, _Silent())
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_an_empty_page_is_made_again(settings, copy):
    (copy / "report.html").write_bytes(b"")
    run_study(settings, copy, _Silent())
    assert (copy / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_lost_trials_of_a_finished_study_are_one_line(settings, copy, caplog, content):
    run_study(settings, copy, _Silent())
    assert caplog.messages == []
    (copy / "trials.db").unlink() if content is None else (copy / "trials.db").write_bytes(content)
    run_study(settings, copy, _Silent())
    (said,) = caplog.messages
    assert str(copy / "trials.db") in said
    assert said.endswith("what the study found stands, but to extend it would search anew")


def test_a_trail_that_was_emptied_begins_anew_and_says_so(settings, copy, caplog):
    (copy / "audit.jsonl").write_bytes(b"")
    run_study(settings, copy, _Silent())
    assert [m for m in caplog.messages if "begins anew" in m] == caplog.messages != []
    first = next(iter(Trail(copy)))
    assert (first.kind, first.facts["trail"][:12]) == ("begun", "begins anew:")


def test_a_trail_with_a_changed_entry_is_named(settings, copy, caplog):
    trail = copy / "audit.jsonl"
    trail.write_bytes(b"junk\n" + trail.read_bytes())
    run_study(settings, copy, _Silent())
    (said,) = caplog.messages
    assert f"{trail}: the audit trail is damaged: " in said


@pytest.mark.parametrize("name", ["lock", "results.json", "ratios.yaml", "report.html", "runs/0123456789ab"])
def test_what_is_in_the_way_is_one_line(settings, tmp_path, name):
    (tmp_path / "study.yaml").write_text(dump_yaml(settings.model_dump(mode="json", exclude_none=True)))
    path = tmp_path / name
    if name.startswith("runs"):
        path.parent.mkdir()
        path.write_text("")
    else:
        path.mkdir()
    with pytest.raises(StudyError, match=rf"{name}: a (file|folder), where .*; move it away$"):
        run_study(settings, tmp_path, _Silent())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "should name a file"),
        ("sqlite:///:memory:", "should name a file"),
        ("sqlite:////nonexistent/a.db", "there is no folder '/nonexistent'"),
        ("sqlite:////tmp", "is a folder"),
    ],
)
def test_a_database_that_cannot_be_leaves_nothing(settings, tmp_path, url, said):
    with pytest.raises(ConfigError, match=said):
        check_places(settings.model_copy(update={"storage": url}))
    with pytest.raises(ConfigError, match=said):
        run_study(settings.model_copy(update={"storage": url}), tmp_path / "run", _Silent())
    assert not (tmp_path / "run").exists()


def test_drift_of_a_study_of_ones_own_trainer(settings, finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "study.yaml").write_text(dump_yaml(settings.model_dump(mode="json", exclude_none=True)))
    monkeypatch.setattr(sys, "argv", ["rlrs", "drift", str(finished / "ratios.yaml"), str(tmp_path / "study.yaml")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code, said
    assert "not compared: data" in said.out
    assert "has no ratios: its study decided for uniform" in said.err
