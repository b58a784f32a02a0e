"""SIGKILL at any moment: nothing is lost but the steps since the last checkpoint, and never the ability to resume."""

import builtins
import json
import os
import random
import shutil
import signal
import time

import pytest
import ranks
from small import CLOCK, make_data, make_spec

from rlrs.training import Stopped, stop_on_signals, train

OPTIONS = {"steps": 60, "checkpoint_every": 2, "log_every": 1}
KILLS = 20


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def numbers(folder):
    result = json.loads((folder / "result.json").read_text())
    return {key: value for key, value in result.items() if key not in ("seconds", "checksum")}


def last_checkpoint(folder):
    return max((int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")), default=0)


def steps_done(folder):
    """From metrics.jsonl, whose last line may be half a line."""
    text = (folder / "metrics.jsonl").read_text() if (folder / "metrics.jsonl").exists() else ""
    whole = text[: text.rfind("\n") + 1].splitlines()
    return json.loads(whole[-1])["step"] if whole else 0


def work(world, folder, slow=0.0):
    train(make_spec(**OPTIONS), make_data(), folder, progress=lambda step, loss: time.sleep(slow))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(make_spec(**OPTIONS), make_data(), folder)
    return folder


def test_twenty_random_kills_cost_no_more_than_the_steps_since_the_last_checkpoint(whole, tmp_path):
    moments, folder, output = random.Random(0), tmp_path / "run", tmp_path / "out"
    killed = 0
    while killed < KILLS:
        (process,) = ranks.start(work, (folder, 0.002), output=output)
        while not (folder / "run.json").exists() and process.is_alive():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.15))
        killed += ranks.kill([process]) == [-signal.SIGKILL]
        # A checkpoint is written during the steps to the next one: those of the one under way are lost too.
        assert steps_done(folder) - last_checkpoint(folder) <= 2 * OPTIONS["checkpoint_every"]
        if (folder / "result.json").exists():  # it was over before the kill
            assert numbers(folder) == numbers(whole)
            shutil.rmtree(folder)
    ranks.run(work, (folder,), output=output)
    assert numbers(folder) == numbers(whole)
    assert lines(folder) == lines(whole)


def kill_at_operation(world, folder, number):
    """A run of few steps that is killed just before its `number`-th change to a file."""
    left = number

    def killing(function, concerns=lambda *args: True):
        def replaced(*args, **kwargs):
            nonlocal left
            if concerns(*args):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return replaced

    def writes(path, mode="r", *args):
        return any(letter in mode for letter in "wa+")

    builtins.open = killing(builtins.open, writes)
    for name in ("replace", "fsync", "mkdir", "unlink", "rmdir", "truncate", "ftruncate"):
        setattr(os, name, killing(getattr(os, name)))
    options = {**OPTIONS, "steps": 4, "keep_checkpoints": 1}
    train(make_spec(**options), make_data(), folder)


@pytest.mark.long
def test_a_kill_before_any_change_to_a_file_loses_nothing_else(tmp_path):
    options = {**OPTIONS, "steps": 4, "keep_checkpoints": 1}
    expected = tmp_path / "whole"
    train(make_spec(**options), make_data(), expected)
    number = 0
    while True:
        folder, output = tmp_path / f"{number}", tmp_path / "out"
        codes = ranks.end(ranks.start(kill_at_operation, (folder, number), output=output))
        killed = codes == [-signal.SIGKILL]
        assert killed or codes == [0], (output / "0.out").read_text()
        train(make_spec(**options), make_data(), folder)
        assert numbers(folder) == numbers(expected), number
        assert lines(folder) == lines(expected), number
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0000000004"], number
        if not killed:
            break
        number += 1
    assert number > 25  # two checkpoints, run.json and result.json


def stopped_by_a_signal(world, folder, slow):
    with stop_on_signals() as stop:
        train(make_spec(**OPTIONS), make_data(), folder, progress=lambda step, loss: time.sleep(slow), stop=stop)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_end_of_the_step_and_the_run_goes_on(whole, tmp_path, number):
    folder = tmp_path / "run"
    (process,) = ranks.start(stopped_by_a_signal, (folder, 0.05), output=tmp_path / "out")
    while not (folder / "metrics.jsonl").exists() or steps_done(folder) < 3:
        time.sleep(0.01)
    os.kill(process.pid, number)
    assert ranks.end([process]) == [75]
    assert last_checkpoint(folder) == steps_done(folder) < OPTIONS["steps"]
    train(make_spec(**OPTIONS), make_data(), folder)
    assert lines(folder) == lines(whole)


def test_a_run_that_is_asked_to_stop_says_at_which_step(spec, data, tmp_path):
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 1, saved") as stopped:
            train(spec(), data, tmp_path, stop=stop)
    assert stopped.value.step == 1
