"""A monitored and guarded loop killed at random moments: nothing is lost, and it ends as one that was not."""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from loops import make, one_step

from rlrs.audit import Trail
from rlrs.files import open_atomic
from rlrs.monitoring import AuditAlerts, Guard, JSONLinesAlerts, Monitor, Thresholds

STEPS, SAVED = 240, 20
THRESHOLDS = Thresholds(thresholds={"loss_spike": 4.0, "loss_rise": 0.2, "update_ratio_high": 0.03})


def saved(folder, at_most):
    """Checkpoints of at most a step, the newest first."""
    steps = sorted((int(path.stem) for path in folder.glob("*.pt")), reverse=True)
    return [step for step in steps if step <= at_most]


def loop(folder):
    """A loop whose rate is too high: with checkpoints, a record, alarms, an audit trail and a guard that goes back."""
    torch.set_num_threads(1)
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    model, optimizer, scheduler = parts = make(total_steps=STEPS, lr=1.0)

    def load(step):
        state = torch.load(folder / f"{step}.pt", weights_only=False)
        for part, plain in zip(parts, state["parts"], strict=True):
            part.load_state_dict(plain)
        return state

    def back(at_most):
        steps = saved(folder, at_most)
        for later in [step for step in saved(folder, STEPS) if step > at_most]:
            (folder / f"{later}.pt").unlink()
        return load(steps[0]) and steps[0] if steps else None

    actions = {"loss_rise": "rollback", "update_ratio_high": "rollback", "loss_spike": "pull", "non_finite": "rollback"}
    guard = Guard(scheduler, actions, rollback=back, lookback=30, pause=10, most=6)
    alerts = [JSONLinesAlerts(folder / "alarms.jsonl"), AuditAlerts(folder)]
    record = folder / "metrics.jsonl"
    monitor = Monitor(optimizer, scheduler, thresholds=THRESHOLDS, every=2, alerts=alerts, guard=guard, record=record)
    monitor._clock = lambda: float(monitor.step)
    if found := saved(folder, STEPS):
        plain = json.loads((folder / f"{found[0]}.json").read_text())
        monitor.load_state_dict(plain)
        load(found[0])
    step = monitor.step
    while step < STEPS and monitor.stopped is None:
        if step % SAVED == 0 and not (folder / f"{step}.pt").exists():
            (folder / f".{step}.json").write_text(json.dumps(monitor.state_dict()))
            os.replace(folder / f".{step}.json", folder / f"{step}.json")
            with open_atomic(folder / f"{step}.pt") as file:
                torch.save({"parts": [part.state_dict() for part in parts]}, file)
        loss, _ = one_step(*parts, monitor.guard.batch(step))
        step += 1
        monitor.observe(step, loss)
        step = monitor.step
    monitor.close()
    end = {"taken": guard.taken, "weights": [weight.double().sum().item() for weight in model.parameters()]}
    (folder / "end.json").write_text(json.dumps(end))


def read(folder):
    """What a run leaves: the end, the alarms in their order, each once, and the lines of its record."""
    alarms = [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]
    once = []
    for alarm in alarms:
        if alarm not in once:
            once.append(alarm)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "end.json").read_text()), once, lines


def begun(folder):
    """A process in which the loop runs; not a fork of this one, which has threads of torch's and may hang then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["loops", "rlrs.audit", "rlrs.monitoring"])
    process = context.Process(target=loop, args=(str(folder),))
    process.start()
    return process


def killed(folder, seed, times, most):
    """Kill the loop so often, at random moments of at most so many seconds, and let it end; how often it was killed."""
    draw = random.Random(seed)
    for kills in range(times + 1):
        process = begun(folder)
        process.join(draw.uniform(0.02, most) if kills < times else None)
        if process.exitcode is not None:
            assert process.exitcode == 0
            return kills
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    raise AssertionError("it did not end")


def difference(whole, folder):
    """What of a run that was killed differs from one that was not; nothing if all is well."""
    end, alarms, _ = read(folder)
    found = []
    if end != whole[0]:
        found.append("the end")
    if alarms != whole[1]:
        found.append("alarms")
    noted = [entry.facts["message"] for entry in Trail(folder) if entry.kind == "alarm"]
    if not all(any(alarm["check"] in message for message in noted) for alarm in alarms):
        found.append("alarms of the trail")
    if not Trail(folder).verify().intact:
        found.append("the trail")
    return found


@pytest.mark.filterwarnings("ignore:RelativeLR.load_state_dict", "ignore:This process:DeprecationWarning")
def test_a_loop_that_was_killed_ends_as_the_one_that_was_not(tmp_path):
    process, start = begun(tmp_path / "whole"), time.monotonic()
    process.join()
    whole, seconds = read(tmp_path / "whole"), time.monotonic() - start
    assert len(whole[0]["taken"]) >= 2
    assert any(one["action"] == "rollback" for one in whole[0]["taken"])
    kills = killed(tmp_path / "killed", 0, 3, 0.5 * seconds)
    assert kills > 0
    assert difference(whole, tmp_path / "killed") == []


def main(moments):
    """Kill until so many kills are done; prints a row for each run, for experiments/killed."""
    import tempfile
    import warnings

    from rlrs.environment import environment

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    commit, rows, seed = environment()["commit"], [], 0
    with tempfile.TemporaryDirectory() as name:
        loop(Path(name) / "whole")
        whole = read(Path(name) / "whole")
        while sum(row["kills"] for row in rows) < moments:
            folder = Path(name) / str(seed)
            kills = killed(folder, seed, 5, 2.0)
            row = {"commit": commit, "method": "monitor and guard", "seed": seed, "kills": kills}
            rows.append(
                row | {"alarms": len(whole[1]), "actions": len(whole[0]["taken"]), "differs": difference(whole, folder)}
            )
            print(json.dumps(rows[-1]), flush=True)
            seed += 1
    return rows


if __name__ == "__main__":
    found = main(int(sys.argv[1]))
    Path(sys.argv[2]).write_text("[\n" + ",\n".join(json.dumps(row) for row in found) + "\n]\n")
