"""Planted faults, healthy runs, two public rules on the same losses, and the monitor's cost.

python -m experiments.monitoring.measure             # ten minutes on two cores; results.json
python -m experiments.monitoring.measure --overhead  # the cost alone
python -m experiments.monitoring.measure --table     # the tables of README.md from results.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rlrs
from experiments.monitoring.runs import AT, CLIP, EVERY, FAULTS, RATE, STEPS, Loop, poison
from experiments.monitoring.trainers import CASES, guarded_trainer, inside, reference_cost, transformers_cost
from rlrs.environment import cores, environment
from rlrs.files import write_atomic
from rlrs.models import build_model
from rlrs.monitoring import Guard, Monitor, Snapshots, Thresholds, calibrate
from rlrs.settings import ModelConfig

FOLDER = Path(__file__).parent
RESULTS, README = FOLDER / "results.json", FOLDER / "README.md"
BEGIN, END = "<!-- made by `python -m experiments.monitoring.measure --part tables` -->", "<!-- end -->"
CALIBRATION, HEALTHY, SEEDS = range(100, 110), range(200, 250), range(3)
SOON = 100
"""Steps after a fault's beginning within which an alarm counts; to the end, for one that is there from the start."""

GUARDED = ("loss_spike", "loss_rise", "non_finite", "update_ratio_high")
"""Checks that the guard acts on."""
ACTIONS = ("none", "pull", "uniform", "rollback", "rollback, skip")
DIVERGE: dict[str, dict[str, Any]] = {
    "ratio of attention 1000": {"ratios": {**rlrs.Ratios.preset("paper-moe"), "attention": 1000.0}},
    "base rate 500 times as high": {"rate": 500 * RATE},
    "three batches that overflow": {},
}

Row = dict[str, Any]


def z_score(losses: Sequence[float], window: int = 100, limit: float = 3.0) -> list[int]:
    """Steps (from 1) whose loss is more than `limit` standard deviations above the mean of the window before."""
    found = []
    for step in range(window, len(losses)):
        before = np.array(losses[step - window : step])
        if not losses[step] <= before.mean() + limit * before.std():
            found.append(step + 1)
    return found


def kill_loss_spike(
    losses: Sequence[float], window: int = 100, multiplier: float = 2.0, patience: int = 4, cap: float = 10.0
) -> list[int]:
    """Steps (from 1) at which llm-foundry's `KillLossSpike` says spike or high loss, with its published defaults.

    The rule alone, from llmfoundry/callbacks/kill_loss_spike_callback.py at commit 03826b5: with a full window, more
    than `patience` losses in a row of at least `multiplier` times the window's mean; or, from twice the window on, half
    of the window above `cap`.
    """
    recent: deque[float] = deque(maxlen=window)
    in_a_row, found = 0, []
    for number, loss in enumerate(losses):
        if len(recent) == window:
            in_a_row = in_a_row + 1 if loss >= multiplier * float(np.mean(recent)) else 0
            high = number >= 2 * window and sum(one > cap for one in recent) >= window / 2
            if in_a_row > patience or high:
                found.append(number + 1)
        recent.append(loss)
    return found


def healthy(seed: int, thresholds: Thresholds | None, folder: Path | None, commit: str | None) -> Row:
    """A run without a fault."""
    loop = Loop(seed)
    monitor = loop.train(thresholds=thresholds, record=folder / f"{seed}.jsonl" if folder else None)
    return {**_row(loop, monitor, commit), "kind": "healthy", "fault": None}


def planted(name: str, seed: int, thresholds: Thresholds, commit: str | None) -> Row:
    """A run with a fault."""
    fault = FAULTS[name]
    loop = Loop(seed, **fault.options)
    monitor = loop.train(fault.plant, thresholds=thresholds)
    last = STEPS if fault.start == 0 else fault.start + SOON
    during = [alarm for alarm in monitor.alarms if fault.start < alarm.step <= last]
    named = next((alarm for alarm in during if fault.names(alarm)), None)
    return {
        **_row(loop, monitor, commit),
        "kind": "fault",
        "fault": name,
        "start": fault.start,
        "caught": bool(during),
        "named": named is not None,
        "check": named.check if named else None,
        "component": named.component if named else None,
        "cause": named.cause if named else None,
        "delay": named.step - fault.start if named else None,
        "early": sum(alarm.step <= fault.start for alarm in monitor.alarms),
        **{f"{rule}_caught": any(fault.start < s <= last for s in steps) for rule, steps in _rules(loop)},
    }


def guarded(case: str, seed: int, action: str, thresholds: Thresholds, commit: str | None) -> Row:
    """A run that goes wrong, with or without a guard."""
    loop = Loop(seed, **DIVERGE[case])
    snapshots = Snapshots(loop.model, loop.optimizer, loop.scheduler, every=10, keep=8)
    snapshots.take(0)

    def make(loop: Loop) -> Guard:
        actions: Any = dict.fromkeys(GUARDED, action.partition(",")[0])
        return Guard(
            loop.scheduler,
            actions,
            rollback=snapshots.restore,
            skip="skip" in action,
            lookback=15,
            pause=20,
            most=10,
            pull=0.25,
            smaller=0.3,
        )

    if not DIVERGE[case]:
        poison(loop)
    monitor = loop.train(thresholds=thresholds, guard=None if action == "none" else make, each=snapshots.take)
    taken = monitor.guard.taken if monitor.guard else []
    return {
        "kind": "guard",
        "case": case,
        "seed": seed,
        "commit": commit,
        "method": action,
        "valid_loss": loop.evaluate(),
        "steps": len(loop.losses),
        "taken": [[one["step"], one["check"], one["component"], one["action"]] for one in taken],
    }


def overhead(commit: str | None, rounds: int = 24, steps: int = 10) -> Row:
    """Time of steps with a monitor over that of steps without, in pairs: wall clock, and processor time."""
    model = build_model(ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8), 1024)
    ratios = rlrs.Ratios.preset("paper-moe")
    optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr=1e-3, weight_decay=0.1))
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=10**6, final_fraction=0.1)
    tokens_BT = torch.randint(1024, (8, 129))
    pairs: dict[str, list[float]] = {"wall": [], "processor": [], "inside": []}
    done = 0

    def block(monitor: Monitor | None) -> tuple[float, float]:
        nonlocal done
        start = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = model(tokens_BT[:, :-1], tokens_BT[:, 1:]).objective
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            done += 1
            if monitor is not None:
                monitor.observe(done, loss, grad_norm=norm)
        return time.perf_counter() - start[0], time.process_time() - start[1]

    block(None)
    for number in range(rounds):
        times, spent = {}, [0.0]
        for on in (True, False) if number % 2 else (False, True):
            if on:
                with inside() as spent, Monitor(optimizer, scheduler) as monitor:
                    monitor.step = done
                    monitor.expect(done + 1)
                    times[on] = block(monitor)
            else:
                times[on] = block(None)
        _add(pairs, (*times[True], *times[False], spent[0]))
    return _cost("a plain loop", pairs, commit)


def _add(pairs: dict[str, list[float]], seconds: Sequence[float]) -> None:
    """Ratios of one pair: by the clock, of the processor, and of the monitored run's clock over that outside checks."""
    wall, processor, no_wall, no_cpu, within = seconds
    for name, ratio in zip(pairs, (wall / no_wall, processor / no_cpu, wall / (wall - within)), strict=True):
        pairs[name].append(ratio)


def _cost(trainer: str, pairs: dict[str, list[float]], commit: str | None) -> Row:
    row: Row = {"kind": "overhead", "trainer": trainer, "commit": commit, "method": "monitor", "every": 10, "seed": 0}
    row["rounds"] = len(pairs["wall"])
    return row | {name: [round(ratio, 4) for ratio in ratios] for name, ratios in pairs.items()}


def overheads(commit: str | None, rounds: int = 10) -> list[Row]:
    """The cost in a plain loop and in two trainers."""
    rows = [overhead(commit)]
    for trainer, once in (("rlrs train", reference_cost), ("transformers' Trainer", transformers_cost)):
        once(0)  # what is imported and compiled the first time
        pairs: dict[str, list[float]] = {"wall": [], "processor": [], "inside": []}
        for number in range(rounds):
            _add(pairs, once(number))
        if trainer == "rlrs train":
            del pairs["inside"]  # its checks read lines of metrics, and what these cost is the trainer's own
        rows.append(_cost(trainer, pairs, commit))
    return rows


def _row(loop: Loop, monitor: Monitor, commit: str | None) -> Row:
    return {
        "commit": commit,
        "method": "monitor",
        "seed": loop.seed,
        "alarms": [[alarm.step, alarm.check, alarm.component] for alarm in monitor.alarms],
        **dict(_rules(loop)),
        "final_loss": round(statistics.fmean(loop.losses[-20:]), 4),
    }


def _rules(loop: Loop) -> list[tuple[str, list[int]]]:
    return [("z_score", z_score(loop.losses)), ("kill_loss_spike", kill_loss_spike(loop.losses))]


COSTS = {"wall": "wall time", "processor": "processor time", "inside": "wall time over that outside of the checks"}


def tables(results: dict[str, Any]) -> str:
    """The tables of README.md."""
    rows = results["rows"]
    faults = [row for row in rows if row["kind"] == "fault"]
    well = [row for row in rows if row["kind"] == "healthy"]
    lines = [
        "| planted fault | named (check, component) | delay, steps | z > 3 | KillLossSpike |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name in FAULTS:
        mine = [row for row in faults if row["fault"] == name]
        named = [row for row in mine if row["named"]]
        how = sorted({f"`{row['check']}` {row['component'] or ''}".strip() for row in named})
        delays = ", ".join(str(row["delay"]) for row in named)
        counts = [sum(row[f"{rule}_caught"] for row in mine) for rule in ("z_score", "kill_loss_spike")]
        lines.append(
            f"| {name} | {len(named)} of {len(mine)}: {'; '.join(how)} | {delays} | {counts[0]} | {counts[1]} |"
        )
    named, caught = sum(row["named"] for row in faults), sum(row["caught"] for row in faults)
    z, kill = (sum(row[f"{rule}_caught"] for row in faults) for rule in ("z_score", "kill_loss_spike"))
    lines.append(f"| **all** | **{named} of {len(faults)}** (any alarm: {caught}) | | **{z}** | **{kill}** |")
    alarms = [sum(len(row[key]) for row in well) for key in ("alarms", "z_score", "kill_loss_spike")]
    runs = [sum(bool(row[key]) for row in well) for key in ("alarms", "z_score", "kill_loss_spike")]
    lines += ["", f"| {len(well)} healthy runs | monitor | z > 3 | KillLossSpike |", "| --- | --- | --- | --- |"]
    lines.append(f"| alarms (runs with one) | {' | '.join(f'{a} ({r})' for a, r in zip(alarms, runs, strict=True))} |")
    lines += [
        "",
        "| held-out loss at the end, nats, of three seeds | no guard | pull | uniform | rollback | rollback, skip |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    guards = [row for row in rows if row["kind"] == "guard"]
    for case in dict.fromkeys(row["case"] for row in guards):
        cells = []
        for action in ACTIONS:
            mine = [row for row in guards if row["case"] == case and row["method"] == action]
            if not mine:
                cells.append("-")
                continue
            ends = ["not finite" if row["valid_loss"] is None else f"{row['valid_loss']:.2f}" for row in mine]
            cells.append(
                ", ".join(end + ("" if row["steps"] == STEPS else "*") for end, row in zip(ends, mine, strict=True))
            )
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += ["", "| time with the monitor over time without | median | quartiles |", "| --- | --- | --- |"]
    for cost in [row for row in rows if row["kind"] == "overhead"]:
        for name, words in [(name, words) for name, words in COSTS.items() if name in cost]:
            low, middle, high = statistics.quantiles(cost[name], n=4)
            what = f"{cost['trainer']}: {words}, {cost['rounds']} pairs"
            lines.append(f"| {what} | {middle:.3f} | {low:.3f} to {high:.3f} |")
    return "\n".join(lines)


def document(page: str, results: dict[str, Any]) -> str:
    """README.md with its tables made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n{tables(results)}\n{END}{rest.split(END)[1]}"


def _workers() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("forkserver")
    return ProcessPoolExecutor(cores(), mp_context=context, initializer=torch.set_num_threads, initargs=(1,))


def faults_and_healthy(commit: str | None) -> tuple[Thresholds, list[Row]]:
    """Thresholds of ten healthy runs; rows of all others, and of the planted faults."""
    with tempfile.TemporaryDirectory() as folder, _workers() as pool:
        here = Path(folder)
        for job in [pool.submit(healthy, seed, None, here, commit) for seed in CALIBRATION]:
            job.result()
        thresholds = calibrate(sorted(here.glob("*.jsonl")))
        thresholds = thresholds.model_copy(update={"runs": tuple(f"seed {seed}" for seed in CALIBRATION)})
        jobs = [pool.submit(planted, name, seed, thresholds, commit) for name in FAULTS for seed in SEEDS]
        jobs += [pool.submit(healthy, seed, thresholds, None, commit) for seed in HEALTHY]
        return thresholds, [_said(job.result()) for job in jobs]


def guards(thresholds: Thresholds, commit: str | None) -> list[Row]:
    """Rows of runs that go wrong, with and without a guard."""
    with _workers() as pool:
        jobs = [
            pool.submit(guarded, case, seed, action, thresholds, commit)
            for case in DIVERGE
            for seed in SEEDS
            for action in ACTIONS
        ]
        jobs += [
            pool.submit(guarded_trainer, case, seed, guard, commit)
            for case in CASES
            for seed in SEEDS
            for guard in (False, True)
        ]
        return [_said(job.result()) for job in jobs]


def _said(row: Row) -> Row:
    print({key: row[key] for key in ("fault", "case", "method", "seed", "alarms", "delay") if key in row}, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["faults", "guard", "overhead", "tables"], help="this part alone, anew")
    part = parser.parse_args().part
    torch.set_num_threads(1)
    where = environment()
    commit = where["commit"]
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    if part in (None, "faults"):
        thresholds, rows = faults_and_healthy(commit)
        settings = {"steps": STEPS, "fault_after": AT, "every": EVERY, "clip": CLIP, "alarm_within": SOON}
        results = {"environment": where, "settings": settings, "thresholds": thresholds.to_plain()} | {
            "rows": _without(results["rows"], "fault", "healthy") + rows
        }
    if part in (None, "guard"):
        rows = guards(Thresholds.model_validate(results["thresholds"]), commit)
        results["rows"] = _without(results["rows"], "guard") + rows
    if part in (None, "overhead"):
        results["rows"] = [*_without(results["rows"], "overhead"), *overheads(commit)]
    if part != "tables":
        lines = ",\n".join(json.dumps(_finite(row), allow_nan=False) for row in results["rows"])
        head = json.dumps({key: value for key, value in results.items() if key != "rows"}, indent=1)
        write_atomic(RESULTS, f'{head[:-2]},\n "rows": [\n{lines}\n]\n}}\n')
    if {row["kind"] for row in results["rows"]} == {"fault", "healthy", "guard", "overhead"}:
        write_atomic(README, document(README.read_text(), results))


def _finite(row: Row) -> Row:
    """JSON has no NaN: null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _without(rows: Sequence[Row], *kinds: str) -> list[Row]:
    return [row for row in rows if row["kind"] not in kinds]


if __name__ == "__main__":
    main()
