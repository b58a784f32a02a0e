"""What the page is told of runs, studies and rollouts on disk, whole and damaged."""

import importlib.util
import json
import os
import sqlite3
from pathlib import Path

import pytest

from postgresql import BINARIES, server
from report.sample import write_sample
from rlrs import audit
from rlrs.live import Watcher
from rlrs.live.growing import MOST
from rlrs.live.searches import read_trials
from rlrs.monitoring import Thresholds
from rlrs.records import Learning, Proposal, RunResult
from rlrs.rollout import Rollout
from rlrs.search import TrialStore
from rollout.rollouts import KEY, declaration, table

CONFIGS = Path(__file__).parents[2] / "configs"
POSTGRESQL = importlib.util.find_spec("psycopg") is not None


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


def test_lines_behind_one_that_is_too_long_are_shown_and_numbered_as_they_stand(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(line(1) + "x" * (MOST + 1) + "\n" + line(3) + "nonsense\n" + line(5))
    look = one(tmp_path)
    look(), look()
    found = look()
    assert found["curves"]["losses"]["loss"][0] == [1, 3, 5]
    assert "line 2: longer than" in found["problems"][0]


def test_an_error_that_passes_is_said_no_longer(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "run.json").write_text('{"steps": 40}')
    look = one(tmp_path)
    assert "metrics.jsonl: [Errno 21] Is a directory" in look()["problems"][0]
    (tmp_path / "metrics.jsonl").rmdir()
    (tmp_path / "metrics.jsonl").write_text(line(1))
    assert look()["problems"] == []


def test_a_run_that_ended_with_lines_still_to_read_is_read_to_its_end(tmp_path):
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (tmp_path / "study.yaml").write_text("name: x")
    text = line(1, components={"router": {"lr": 1, "ratio": 1, "grad_norm": 1, "update_ratio": 1}})
    count = 2 * MOST // len(text)
    (run / "metrics.jsonl").write_text(text * count + line(count + 1))
    watcher = Watcher([tmp_path])
    watcher.overview()
    (run / "result.json").write_text('{"status": "finished", "steps": 9}')
    for _ in range(3):
        ((item,),) = (watcher.overview()["items"],)
    live = next(iter(watcher._lives.values())).runs["a"]
    assert not live.unread
    assert live._curves.last["step"] == count + 1
    assert item["kind"] == "study"


def stored(storage, study, **scores):
    """One finished run for each search and score."""
    store = TrialStore(storage, study=study)
    for number, (search, score) in enumerate(scores.items()):
        name = search.replace("__", "/")
        store.open(name)
        assert store.plan(name)
        store.add_batch(name, [Proposal(params={"lr": 1e-3}, move="start")], [f"run{number}"])
        store.planned(name)
        (trial,) = store.trials(name)
        store.begin(name, trial)
        store.end(name, trial, RESULT.model_copy(update={"score": score}))
    store.leave()


def test_transfers_of_an_arm_by_two_recipes_stay_apart(tmp_path):
    stored(tmp_path / "trials.db", None, target__rlrs__aaa=3.0, target__rlrs__bbb=2.0, target__uniform__aaa=4.0)
    found = one(tmp_path)()["searches"]
    names = {search["name"]: (search["arm"], search["best"][0]["score"]) for search in found}
    assert names == {"target/rlrs": ("rlrs", 3.0), "target/rlrs/2": ("rlrs", 2.0), "target/uniform": ("uniform", 4.0)}


def study_in(folder):
    (folder / "study.yaml").write_text((CONFIGS / "demo.yaml").read_text().replace("name: demo", "name: shared"))


def test_a_study_in_a_shared_database_is_shown_from_there_and_no_other(tmp_path):
    study_in(tmp_path)
    url = f"sqlite:///{tmp_path / 'all.db'}"
    stored(url, "shared", proxy__rlrs=3.0)
    stored(url, "another", proxy__uniform=1.0)
    (search,) = one(tmp_path, storage=url)()["searches"]
    assert (search["name"], search["best"][0]["score"]) == ("proxy/rlrs", 3.0)


@pytest.mark.skipif(BINARIES is None, reason="PostgreSQL is not installed")
@pytest.mark.skipif(not POSTGRESQL, reason="the driver of PostgreSQL is not installed")
def test_a_study_in_postgresql_is_shown_and_a_password_is_not(tmp_path):
    study_in(tmp_path)
    with server() as url:
        stored(url, "shared", proxy__rlrs=3.0, target__rlrs__abc=2.5)
        found = one(tmp_path, storage=url)()
    assert [search["name"] for search in found["searches"]] == ["proxy/rlrs", "target/rlrs"]
    assert found["problems"] == []
    gone = one(tmp_path, storage="postgresql+psycopg://ann:opensesame@127.0.0.1:1/none")()
    assert "the shared database cannot be read" in gone["problems"][0]
    assert "opensesame" not in json.dumps(gone)


def test_a_ladder_has_a_total_where_the_study_names_one(tmp_path):
    study_in(tmp_path)
    ladder = "ladder: {sizes: [0.3, 0.5, 1], horizons: [40, 80], trials: 9}"
    (tmp_path / "study.yaml").write_text((tmp_path / "study.yaml").read_text() + ladder + "\n")
    stored(tmp_path / "trials.db", None, ladder__rlrs__small__abc=3.0)
    (search,) = one(tmp_path)()["searches"]
    assert (search["name"], search["ended"], search["total"]) == ("ladder/rlrs/small", 1, 9)


def test_alarms_are_in_the_language_of_the_page(tmp_path):
    numbers = {"lr": 1e-3, "ratio": 1.0, "grad_norm": 0.1, "update_ratio": 0.5, "weight_norm": 1.0}
    (tmp_path / "metrics.jsonl").write_text(
        "".join(line(n, components={"router": numbers}) for n in range(10, 100, 10))
    )
    (found,) = one(tmp_path, language="ja")()["list"]
    assert found["cause"] == "この部品の学習率が高すぎるか、重みが小さくなった"
    assert found["remedy"] == "比率を下げ、重み減衰を確かめる"
