"""What the page is told of runs, studies and rollouts on disk, whole and damaged."""

import json
import os
import sqlite3

import pytest

from report.sample import write_sample
from rlrs import audit
from rlrs.live import Watcher
from rlrs.live.searches import read_trials
from rlrs.monitoring import Thresholds
from rlrs.records import Learning, Proposal, RunResult
from rlrs.rollout import Rollout
from rlrs.search import TrialStore
from rollout.rollouts import KEY, declaration, table


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr("rlrs.live.watcher.REST", 0.0)


def line(step, loss=None, **more):
    return json.dumps({"step": step, "tokens": step, "loss": 5.0 - step / 100 if loss is None else loss, **more}) + "\n"


def one(*paths, **options):
    watcher = Watcher(paths, **options)

    def look(run=None):
        return watcher.detail(watcher.overview()["items"][0]["id"], run)

    return look


def test_a_run_that_appears_grows_is_cut_back_ends_and_vanishes(tmp_path):
    folder = tmp_path / "run"
    look = one(folder)
    assert (look()["state"], look()["why"]) == ("waiting", "Nothing is there yet.")
    folder.mkdir()
    (folder / "run.json").write_text('{"steps": 40}')
    assert look()["why"] == "It has begun; no line of metrics is there yet."
    metrics = folder / "metrics.jsonl"
    metrics.write_text(line(10) + line(20) + '{"step": 30, "to')
    found = look()
    assert (found["state"], found["step"], found["steps"], found["problems"]) == ("running", 20, 40, [])
    metrics.write_text(line(10) + line(20) + line(30))
    assert look()["curves"]["losses"]["loss"] == [[10, 20, 30], [4.9, 4.8, 4.7]]
    metrics.write_text(line(10, 4.0))  # resumed from a checkpoint
    assert look()["curves"]["losses"]["loss"] == [[10], [4.0]]
    (folder / "result.json").write_text('{"status": "diverged", "reason": "loss 7.1", "steps": 11}')
    assert (look()["state"], look()["why"]) == ("failed", "diverged: loss 7.1")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert (look()["state"], look()["why"]) == ("waiting", "It was here before, and is gone.")


def test_a_silent_run_is_stale_sooner_where_its_lines_come_quickly(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(line(n, seconds=30.0 * n) for n in range(1, 10)) + '{"st')
    moment = os.stat(metrics).st_mtime
    state = {after: one(tmp_path, clock=lambda after=after: moment + after)() for after in (10, 290, 400)}
    assert [found["state"] for found in state.values()] == ["running", "running", "stale"]
    assert "was killed" in state[400]["why"]
    assert "half written (4 bytes)" in state[400]["problems"][0]


def test_damaged_files_are_named_in_place_and_the_rest_is_shown(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1) + "nonsense\n" + line(2, float("nan")) + line(3))
    (tmp_path / "run.json").write_text('{"steps": ')
    (tmp_path / "alarms.jsonl").write_text('[1]\n{"check": "loss_spike", "step": 3, "value": "Infinity"}\n')
    (tmp_path / "audit.jsonl").write_text('{"entry":{}}\n')
    found = one(tmp_path)()
    assert found["curves"]["losses"]["loss"] == [[1, 2, 3], [4.99, None, 4.97]]
    assert found["curves"]["not_finite"] == [2]
    said = "\n".join(found["problems"])
    for name in ("metrics.jsonl, line 2", "run.json: damaged", "alarms.jsonl, line 1", "audit.jsonl, line 1"):
        assert name in said
    assert [alarm["check"] for alarm in found["list"]] == ["non_finite", "loss_spike"]
    json.dumps(found, allow_nan=False)


def test_alarms_are_those_of_trail_and_file_and_checks_each_once(tmp_path):
    numbers = {"lr": 1e-3, "ratio": 1.0, "grad_norm": 0.1, "update_ratio": 0.5, "weight_norm": 1.0}
    lines = [line(step, components={"router": numbers}) for step in range(10, 100, 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    (found,) = one(tmp_path)()["list"]
    assert (found["check"], found["component"], found["step"], found["recorded"]) == (
        "update_ratio_high",
        "router",
        20,
        False,
    )
    audit.note(
        tmp_path,
        "alarm",
        message="m",
        action="stopped",
        **{k: v for k, v in found.items() if k not in ("recorded", "action")},
    )
    (noted,) = one(tmp_path)()["list"]
    assert (noted["action"], noted["recorded"], noted["cause"]) == ("stopped", True, found["cause"])
    audit.note(tmp_path, "ended", status="finished")
    assert one(tmp_path)()["state"] == "finished"
    calm = Thresholds(thresholds={"update_ratio_high": 0.9})
    (tmp_path / "audit.jsonl").unlink()
    assert one(tmp_path, thresholds=calm)()["list"] == []


def test_an_alarm_of_anothers_file_is_taken_as_numbers_or_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1))
    alarms = ['{"check": "x"}', '{"check": "y", "step": "<b>"}', '{"check": "z", "step": 3, "value": NaN}']
    (tmp_path / "alarms.jsonl").write_text("\n".join(alarms) + "\n")
    found = one(tmp_path)()
    assert [(alarm["check"], alarm["value"]) for alarm in found["list"]] == [("z", "nan")]
    assert "an alarm of x without the step" in " ".join(found["problems"])
    json.dumps(found, allow_nan=False)


RESULT = RunResult(status="finished", steps=20, score=4.0, valid_loss=None, tokens=1, seconds=2.0)


def test_a_search_is_read_while_another_process_writes_it_and_nothing_is_written(tmp_path):
    store = TrialStore(tmp_path / "trials.db")
    store.open("proxy/rlrs")
    proposals = [
        Proposal(params={"lr": lr}, move=f"lr {lr}", steps=steps)
        for lr, steps in ((1e-3, None), (2e-3, 5), (4e-3, None))
    ]
    store.add_batch("proxy/rlrs", proposals, ["a", "b", "c"])
    trials = store.trials("proxy/rlrs")
    for trial, score in zip(trials[:2], (4.0, 3.0), strict=True):
        store.begin("proxy/rlrs", trial)
        store.end("proxy/rlrs", trial, RESULT.model_copy(update={"score": score}))
    store.begin("proxy/rlrs", trials[2])
    before = sorted(path.name for path in tmp_path.iterdir())
    found = one(tmp_path)()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (search,) = found["searches"]
    assert (found["kind"], found["state"], found["stage"]) == ("study", "running", "search")
    assert (search["ended"], search["running"], search["total"]) == (2, 1, 3)
    assert [trial["score"] for trial in search["best"]] == [4.0]  # the other is a shorter run
    store.end("proxy/rlrs", trials[2], RESULT.model_copy(update={"score": 3.5}))
    assert one(tmp_path)()["searches"][0]["best"][0]["score"] == 3.5
    store.leave()
    assert [path.name for path in tmp_path.iterdir()] == ["trials.db"]
    assert [trial.state for trial in read_trials(tmp_path / "trials.db")] == ["finished"] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["trials.db"]


def test_a_search_of_ones_own_code_is_shown_too(tmp_path):
    store = TrialStore(tmp_path / "trials.db")
    store.open("search")
    learns = Proposal(params={"lr": 2e-3}, move="learned", learn=Learning(knots={"embedding": (0.0, 1.0)}))
    store.add_batch("search", [Proposal(params={"lr": 1e-3}, move="start"), learns], ["a", "b"])
    for trial in store.trials("search"):
        store.begin("search", trial)
        store.end("search", trial, RESULT)
    store.leave()
    found = one(tmp_path)()
    (search,) = found["searches"]
    assert (found["stage"], search["arm"], search["ended"]) == ("search", "search", 2)
    assert [trial["lr"] for trial in search["best"]] == [1e-3]  # the other is a run that learns


def test_a_finished_study_has_its_verdict_its_report_and_its_runs_in_both_languages(tmp_path):
    write_sample(tmp_path, schema=2)
    (tmp_path / "report.html").write_text("")
    found = one(tmp_path)()
    assert (found["state"], found["report"]) == ("finished", str(tmp_path / "report.html"))
    assert "12% fewer steps" in found["verdict"]["sentence"]
    assert one(tmp_path, language="ja")()["verdict"]["sentence"] != found["verdict"]["sentence"]
    run = found["runs"][0]["id"]
    (tmp_path / "runs" / run / "alarms.jsonl").write_text('{"check": "loss_spike", "step": 7}\n')
    assert [alarm["run"] for alarm in one(tmp_path)()["list"]] == [run]  # it has ended, and is not read for its curves
    assert one(tmp_path)(run)["curves"]["losses"]["valid_loss"][0][-1] == 1000
    assert one(tmp_path)("../../etc") is None


@pytest.mark.parametrize("name", ["trials.db", "results.json", "study.yaml"])
def test_a_damaged_study_says_which_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x01 nonsense: [")
    found = one(tmp_path)()
    assert found["kind"] == "study"
    assert name in found["problems"][0]
    if name == "trials.db":  # mended meanwhile
        (tmp_path / name).unlink()
        sqlite3.connect(tmp_path / name).close()
        assert "no such table" in one(tmp_path)()["problems"][0]


def test_a_study_that_stopped_with_an_error_says_it(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "study.yaml").write_text("name: x")
    audit.note(tmp_path, "begun", study="x")
    assert one(tmp_path)()["state"] == "running"
    audit.note(tmp_path, "failed", error="EngineError: run 1 was given up")
    found = one(tmp_path)()
    assert (found["state"], found["why"]) == ("failed", "EngineError: run 1 was given up")


def test_a_folder_of_runs_shows_those_that_come_and_go(tmp_path):
    watcher = Watcher([tmp_path])
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(line(1))
    (tmp_path / "other").mkdir()
    first = watcher.overview()["items"]
    assert [item["name"] for item in first] == ["a", "b"]
    (tmp_path / "a" / "metrics.jsonl").unlink()
    (left,) = watcher.overview()["items"]
    assert (left["name"], left["id"]) == ("b", first[1]["id"])
    (alone,) = Watcher([tmp_path / "b" / "metrics.jsonl"]).overview()["items"]
    assert alone["name"] == "b"


def test_a_rollout_is_where_its_trail_says_and_a_changed_one_is_named(tmp_path):
    rollout = Rollout.begin(declaration(tmp_path), tmp_path / "r")
    look = one(rollout.folder)
    found = look()
    assert [stage["status"] for stage in found["stages"]] == ["open", "waiting"]
    rollout.decide([table(tmp_path, 5)])
    rollout.sign("ann", KEY)
    found = look()
    assert (found["kind"], found["state"], found["stage"], found["step"]) == ("rollout", "running", "middle", 1)
    assert [(stage["status"], stage["pairs"]) for stage in found["stages"]] == [("signed", 5), ("open", 0)]
    settings = rollout.folder / "rollout.yaml"
    settings.write_text(settings.read_text().replace("max_pairs: 8", "max_pairs: 9"))
    found = look()
    assert found["state"] == "failed"
    assert "max_pairs" in found["problems"][0]
