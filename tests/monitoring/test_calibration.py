"""Thresholds from healthy runs, and `rlrs monitor`."""

import json

import pytest
from typer.testing import CliRunner

from rlrs.cli import app
from rlrs.monitoring import CHECKS, Thresholds, calibrate, check_file
from rlrs.records import RecordError


def write_run(path, *, rise=0.0, grad_norm=1.0, lines=24, every=5, last=None):
    """A run whose loss falls to 2, and then is `rise` above that."""
    rows = []
    for number in range(1, lines + 1):
        loss = 2.0 + max(0, 4 - number) if number < lines - 3 else 2.0 + rise
        component = {"lr": 1e-3, "ratio": 1.0, "grad_norm": grad_norm, "update_ratio": 1e-3}
        rows.append({"step": every * number, "tokens": number, "loss": loss, "components": {"router": component}})
    rows += [last] if last else []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def runs(tmp_path, *rises, **changes):
    return [write_run(tmp_path / f"{number}.jsonl", rise=rise, **changes) for number, rise in enumerate(rises)]


def test_a_threshold_is_the_worst_healthy_value_and_the_margin(tmp_path):
    found = calibrate(runs(tmp_path, 0.1, 0.4, 0.2))
    assert found.thresholds["loss_rise"] == pytest.approx(1.5 * 0.4)
    assert found.components["update_ratio_high"] == {"router": pytest.approx(1.5e-3)}
    assert (found.observations, found.every, len(found.runs)) == (72, 5, 3)


def test_a_threshold_is_no_tighter_than_the_check_allows(tmp_path):
    assert calibrate(runs(tmp_path, 0.0, 0.0, 0.0)).thresholds["loss_rise"] == CHECKS["loss_rise"].tightest


def test_exact_checks_are_not_calibrated(tmp_path):
    found = calibrate(runs(tmp_path, 0.1, 0.1, 0.1))
    assert not {"non_finite", "rate_off_schedule"} & {*found.thresholds, *found.components}


def test_false_alarms_are_counted_with_each_run_held_out(tmp_path):
    # 0.9 is above 1.5 times the worst of the others, 0.4; the others are below 1.5 * 0.9.
    assert calibrate(runs(tmp_path, 0.4, 0.4, 0.9)).held_out_alarms == 1
    assert calibrate(runs(tmp_path, 0.4, 0.4, 0.5)).held_out_alarms == 0


def test_thresholds_come_back_from_their_file(tmp_path):
    found = calibrate(runs(tmp_path, 0.1, 0.4, 0.2))
    found.save(tmp_path / "monitor.yaml")
    assert Thresholds.load(tmp_path / "monitor.yaml") == found


def test_a_run_is_checked_with_thresholds_of_others(tmp_path):
    thresholds = calibrate(runs(tmp_path, 0.1, 0.4, 0.2))
    bad = write_run(tmp_path / "bad.jsonl", rise=0.7)
    assert [(alarm.check, alarm.step) for alarm in check_file(bad, thresholds) if alarm.check == "loss_rise"] == [
        ("loss_rise", 110)
    ]
    assert check_file(tmp_path / "0.jsonl", thresholds) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lines": 9}, "9 lines with a loss; should be 16 or more"),
        ({"last": {"step": 999, "tokens": 1, "loss": float("nan")}}, "not healthy: not a finite number at step 999"),
        ({"every": 7}, "different intervals of steps"),
        ({"last": {"step": 0}}, "line 25: not a line of metrics"),
    ],
)
def test_a_run_that_cannot_be_used_is_named(tmp_path, changes, message):
    paths = runs(tmp_path, 0.1, 0.1)
    with pytest.raises(RecordError, match=message):
        calibrate([*paths, write_run(tmp_path / "odd.jsonl", **changes)])


def test_a_run_that_diverged_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder / "metrics.jsonl")
    (folder / "result.json").write_text('{"id": "a", "status": "diverged"}')
    with pytest.raises(RecordError, match="not healthy: its result says 'diverged'"):
        calibrate([*runs(tmp_path, 0.1, 0.1), folder])


def test_two_runs_are_too_few(tmp_path):
    with pytest.raises(RecordError, match="2 healthy runs to calibrate from; should be 3 or more"):
        calibrate(runs(tmp_path, 0.1, 0.1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("thresholds: {loss_spikes: 3}", "no check 'loss_spikes'; should be one of non_finite, loss_spike"),
        ("thresholds: {loss_spike: -1}", "loss_spike: -1 should be 0 or more"),
        ("thresholds: {loss_spike: .nan}", "thresholds.loss_spike"),
        ("tresholds: {}", "no key 'tresholds' in a monitor.yaml; should be one of format, runs"),
        ("[1, 2]", "should be a mapping"),
        ("a: [", "not valid YAML"),
        ("disabled: [all]", "no check 'all'"),
    ],
)
def test_a_bad_file_of_thresholds_is_one_line(tmp_path, text, message):
    path = tmp_path / "monitor.yaml"
    path.write_text(text)
    with pytest.raises(RecordError, match=message) as error:
        Thresholds.load(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_disabled_check_raises_nothing(tmp_path):
    bad = write_run(tmp_path / "bad.jsonl", rise=0.7)
    all_checks = Thresholds(disabled=("loss_rise", "loss_spike"))
    assert check_file(bad, all_checks) == []
    assert {alarm.check for alarm in check_file(bad)} == {"loss_rise", "loss_spike"}


def test_the_commands_calibrate_and_check(tmp_path):
    paths = runs(tmp_path, 0.1, 0.4, 0.2)
    out = tmp_path / "monitor.yaml"
    done = CliRunner().invoke(app, ["monitor", "calibrate", *map(str, paths), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "from 3 runs, 72 observations every 5 steps" in done.output
    bad = write_run(tmp_path / "bad.jsonl", rise=0.7)
    well = CliRunner().invoke(app, ["monitor", "check", str(paths[0]), "-t", str(out)])
    assert (well.exit_code, well.output) == (0, "no alarm\n")
    found = CliRunner().invoke(app, ["monitor", "check", str(bad), "-t", str(out), "--json"])
    assert found.exit_code == 3
    assert {json.loads(line)["check"] for line in found.output.splitlines()} == {"loss_rise", "loss_spike"}


def test_a_run_given_twice_is_refused(tmp_path):
    first, second = runs(tmp_path, 0.1, 0.1)
    (tmp_path / "link.jsonl").symlink_to(first)
    with pytest.raises(RecordError, match=r"0\.jsonl and .*link\.jsonl are the same run"):
        calibrate([first, second, tmp_path / "link.jsonl"])


def test_two_runs_in_one_file_are_refused(tmp_path):
    paths = runs(tmp_path, 0.1, 0.1, 0.1)
    paths[1].write_text(paths[1].read_text() * 2)
    with pytest.raises(RecordError, match=r"1\.jsonl: steps go from 120 back to 5: two runs in one file"):
        calibrate(paths)


def test_runs_of_other_components_are_refused(tmp_path):
    paths = runs(tmp_path, 0.1, 0.1, 0.1)
    paths[2].write_text(paths[2].read_text().replace('"router"', '"attention"'))
    with pytest.raises(RecordError, match=r"different components: .*0\.jsonl has router; .*2\.jsonl has attention"):
        calibrate(paths)


def test_a_file_without_a_line_is_not_a_healthy_run(tmp_path):
    empty = tmp_path / "metrics.jsonl"
    empty.touch()
    with pytest.raises(RecordError, match=r"metrics\.jsonl: no line of metrics yet: nothing was checked"):
        check_file(empty)
