"""The benchmark for a GPU goes on where it ended, and brackets base rates in turn."""

import json
import math
import time

from benchmarks.gpu.at_size import FIRST_RATE, arms, plan
from benchmarks.gpu.gpu_rows import DeviceRows, Measurement, run

STAMP = {"device": "one", "commit": "abc"}


def test_what_was_measured_is_not_measured_again_and_a_failure_ends_nothing(tmp_path):
    rows, calls = DeviceRows(tmp_path / "rows.jsonl", STAMP), []

    def measure():
        calls.append(1)
        return {"value": 1}

    def broken():
        raise RuntimeError("no such kernel\nand more")

    checks = [Measurement("broken", broken, 0), Measurement("fine", measure, 0), Measurement("long", measure, 1e9)]
    for _ in range(2):
        run("right", checks, rows, time.time() + 60)
    assert len(calls) == 1
    assert rows.done("right") == {"broken", "fine"}
    assert {row["name"]: row["state"] for row in rows.read()} == {
        "broken": "failed",
        "fine": "passed",
        "long": "left out",
    }
    assert next(row["error"] for row in rows.read() if "error" in row) == "RuntimeError: no such kernel"


def test_rows_of_another_device_or_cut_short_are_not_seen(tmp_path):
    path = tmp_path / "rows.jsonl"
    DeviceRows(path, {**STAMP, "device": "another"}).add("right", "fine", "passed")
    with path.open("a") as file:
        file.write(json.dumps({"phase": "right", **STAMP})[:-3] + "\n")
    rows = DeviceRows(path, STAMP)
    assert rows.read() == []
    rows.add("right", "slow", "begun")
    assert rows.under_way("right") == "slow"


def test_every_arm_has_a_rate_before_any_has_the_next_and_an_edge_is_followed():
    done, order = {}, []
    for kind, arm, lr in plan(done, ("dense",)):
        order.append((arm, lr / FIRST_RATE[kind]))
        # Best at twice the first rate; the uniform arm at four times it, and everything above diverges.
        best = 4 if arm == "uniform" else 2
        times = lr / FIRST_RATE[kind]
        done[kind, arm][lr] = math.inf if times > best else abs(math.log2(times / best))
    names = list(arms("dense"))
    assert order[:8] == [(name, 1.0) for name in names] + [(name, 2.0) for name in names]
    assert max(times for arm, times in order if arm == "uniform") == 8.0
    assert max(times for arm, times in order if arm == "constant") == 4.0
    assert len(order) == len(set(order))
