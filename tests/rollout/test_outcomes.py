"""Results from studies, folders of runs and tables; what cannot be used is one line."""

import json

import pytest
from rollouts import stage, table

from rlrs.records import RecordError, RunResult, write_record, write_results
from rlrs.rollout import RolloutError, StageConfig
from rlrs.rollout.outcomes import read_outcomes
from study.sample_results import results

ARMS = ("old", "new")


def read(*paths, arms=ARMS, runs=(), **changes):
    return read_outcomes(StageConfig.model_validate(stage(**changes)), arms, paths, runs)[0]


def run_folder(folder, name, seed, loss=3.2, status="finished"):
    run = folder / name
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"seed": seed}))
    well = status == "finished"
    result = RunResult(
        status=status, steps=9, score=3.0 if well else None, valid_loss=loss if well else None, tokens=900, seconds=3
    )
    write_record(run / "result.json", result)
    lines = [{"step": 10 * n, "tokens": 10 * n, "loss": 4.0 - 0.01 * n} for n in range(1, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_both_arms_of_a_studys_results(tmp_path):
    write_results(tmp_path / "results.json", results("rlrs"))
    found = read(tmp_path, arms=("uniform", "rlrs"))
    assert {(o.arm, o.run) for o in found} == {(a, s) for a in ("uniform", "rlrs") for s in "123"}
    assert next(o for o in found if o.arm == "uniform").values == {"valid_loss": 3.5}


def test_results_of_a_study_without_the_arm_or_the_folders_of_its_runs(tmp_path):
    write_results(tmp_path / "results.json", results("rlrs"))
    with pytest.raises(RolloutError, match=r"no arm 'old'; its arms are uniform"):
        read(tmp_path)
    speed = {"tokens_per_second": {"at_least": 1.0}}
    with pytest.raises(RolloutError, match=r"tokens_per_second of run run is wanted, and its folder"):
        read(tmp_path, arms=("uniform", "rlrs"), guardrails=speed)


def test_folders_of_runs_are_paired_by_seed_and_alarms_are_counted(tmp_path):
    for arm in ARMS:
        run_folder(tmp_path / arm, "b", 1)
        run_folder(tmp_path / arm, "a", 2, status="diverged")
        (tmp_path / arm / "c").mkdir()  # still training
    guardrails = {"tokens_per_second": {"at_least": 0.9, "of": "ratio"}, "alarms": {"at_most": 0}}
    found = read(runs=[(arm, tmp_path / arm) for arm in ARMS], guardrails=guardrails)
    assert [(o.arm, o.run, o.diverged) for o in found[:2]] == [("old", "2", True), ("old", "1", False)]
    assert found[1].values == {"valid_loss": 3.2, "tokens_per_second": 300.0, "alarms": 0.0}
    assert read(runs=[("old", tmp_path / "old" / "b")], paired=False)[0].run == "b"


def test_a_run_without_metrics_or_with_damage_does_not_count_as_one_without_alarms(tmp_path):
    run = run_folder(tmp_path, "a", 1)
    (run / "metrics.jsonl").unlink()
    with pytest.raises(FileNotFoundError):
        read(runs=[("new", run)], guardrails={"alarms": {"at_most": 0}})
    (run / "result.json").write_text("{")
    with pytest.raises(RecordError, match=r"damaged"):
        read(runs=[("new", run)])


def test_json_lines_are_read_as_csv_is(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"arm": "old", "run": 1, "valid_loss": 3.2, "note": "x"}\n\n{"arm": "other", "run": 1}\n')
    assert [(o.arm, o.run, o.values) for o in read(path)] == [("old", "1", {"valid_loss": 3.2})]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm,run,valid_loss\nold,1,\n", "line 2: no valid_loss; a run that ended without one has status diverged"),
        ("arm,run,valid_loss\nold,1,nan\n", "line 2: valid_loss should be a finite number, not 'nan'"),
        ("arm,run,valid_loss\nold,1,3,2\n", "line 2: should have 3 values, as the first line"),
        ("arm,run,valid_loss\nold,1\n", "line 2: should have 3 values, as the first line"),
        ("arm,valid_loss\nold,3.2\n", "line 2: no run; every row has arm, run and valid_loss"),
        ("arm,run,valid_loss\nodl,1,3.2\n", "no row of old or new; its arms are odl"),
        ("arm,run,run\nold,1,3.2\n", "the column 'run' is there twice"),
        ("arm,run,valid_loss,status\nold,1,3,done\n", "line 2: status should be finished, diverged, failed or empty"),
        ("arm,run,valid_loss\nold,1,3.2\nold,1,3.3\n", "run '1' of old is there twice; a run counts once"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(tmp_path, text, said):
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(RolloutError, match=said) as raised:
        read(path)
    assert "\n" not in str(raised.value)


def test_other_files_are_no_results(tmp_path):
    with pytest.raises(RolloutError, match=r"should be a study's results.json or folder, or a table"):
        read(table(tmp_path, 2, name="r.txt"))
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.csv")
