"""Speed of the engines and cost of the driver: `python -m benchmarks.engines [PART ...]`, a few minutes on two cores.

Parts: `workers` (two workers against one), `ray` (Ray on this machine against processes), `driver` (what asking and
telling cost a trial at 1,000 finished trials, database included), `memory` (of the driver up to 10,000 trials).
Alternatives are timed in turn, after their workers have started. Raw results of a part replace the same part's in
`benchmarks/results/engines.json`.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import RESULTS, write
from rlrs.data import TokenData, prepare
from rlrs.environment import environment
from rlrs.ratios import Ratios
from rlrs.records import Proposal, RunResult, SearchResult, Trial
from rlrs.search import (
    Engine,
    History,
    Method,
    Processes,
    Ray,
    SearchTask,
    Space,
    TrialStore,
    make_method,
    run_at,
    start_point,
    tune,
)
from rlrs.settings import DataConfig, ModelConfig, SearchConfig, TrainingConfig
from rlrs.training import RunSpec, train

COMPONENTS = ("embedding", "attention", "experts", "router", "unembedding")
SMALL = ModelConfig(d_model=32, n_layers=2, n_heads=2, n_experts=4)
ARMS = {"uniform": (), "embedding_only": ("embedding",), "rlrs": COMPONENTS}
ROUNDS = 3
RANDOM = "optuna.samplers.RandomSampler"
"""Method of searches that are to cost nothing themselves."""


def run_spec(data: TokenData, steps: int, seed: int = 0) -> RunSpec:
    """A run of the demo's proxy: 0.11 million parameters, 8 sequences of 64 tokens a step."""
    return RunSpec(
        model=SMALL,
        training=TrainingConfig(score_steps=40),
        steps=steps,
        batch_size=8,
        seed=seed,
        lr=8e-3,
        final_fraction=0.0444,
        ratios={},
        data_hash=data.hash,
    )


def search(data: TokenData, arm: str, trials: int, steps: int, name: str) -> SearchTask:
    """An arm's search on that proxy."""
    space = Space.around(start_point(8e-3, 0.0444, Ratios.preset("paper-moe"), ARMS[arm]))
    settings = SearchConfig.model_validate({"method": name, "trials": trials, "retest": {"points": 0}})
    whole = run_spec(data, steps)
    method = make_method(space, settings, steps=steps, window=40)
    return SearchTask(method, lambda point: run_at(point, whole), limits={"trials": trials})


def queue(engine: Engine, data: TokenData, runs: int, steps: int) -> int:
    """Runs handed to an engine all at once."""
    for seed in range(runs):
        engine.submit(seed, run_spec(data, steps, seed), validate=False)
    while engine.pending:
        engine.next()
    return runs


def searches(engine: Engine, data: TokenData, arms: tuple[str, ...], trials: int, steps: int) -> int:
    """Searches by the default method, side by side, with a fresh database."""
    with tempfile.TemporaryDirectory() as folder:
        method = SearchConfig().method
        asked = {arm: search(data, arm, trials, steps, method) for arm in arms}
        results = tune(asked, engine, TrialStore(Path(folder) / "trials.db"))
    # A point that a search proposes twice is trained once.
    return len({(arm, trial.run) for arm, result in results.items() for trial in result.trials})


def seconds_per_run(work: Callable[[], int]) -> float:
    """Seconds that some work took for each of its runs."""
    start = time.perf_counter()
    runs = work()
    return (time.perf_counter() - start) / runs


def warm(engine: Engine, data: TokenData) -> None:
    """Have every worker started, with the data open."""
    for turn in range(2):
        queue(engine, data, 2 * engine.slots, 40 + turn)


def paired(name: str, first: Callable[[], int], second: Callable[[], int]) -> dict[str, Any]:
    """Time of the first over the time of the second, in turn."""
    times: dict[str, list[float]] = {"first": [], "second": []}
    for turn in range(ROUNDS):
        order = [("first", first), ("second", second)]
        for which, work in order[:: 1 if turn % 2 else -1]:
            times[which].append(seconds_per_run(work))
    ratios = [a / b for a, b in zip(times["first"], times["second"], strict=True)]
    print(f"{name}: {statistics.median(ratios):.3f}", flush=True)
    return {"what": name, "ratio": statistics.median(ratios), "ratios": ratios, "seconds_per_run": times}


def _plain(folder: Path, steps: int, runs: int, gate: Any, done: Any) -> None:
    torch.set_num_threads(1)
    data = TokenData.load(folder)
    train(run_spec(data, 40), data, validate=False)
    done.put("ready")
    while gate.get() == "go":
        for seed in range(runs):
            train(run_spec(data, steps, seed), data, validate=False)
        done.put("done")


@contextmanager
def plain_processes(folder: Path, steps: int, runs: int) -> Iterator[Callable[[int], Callable[[], int]]]:
    """What the machine itself gives: one or two processes that train and do nothing else."""
    context = multiprocessing.get_context("spawn")
    gates, done = [context.Queue() for _ in range(2)], context.Queue()
    processes = [context.Process(target=_plain, args=(folder, steps, runs, gate, done), daemon=True) for gate in gates]
    for process in processes:
        process.start()
    assert [done.get() for _ in processes] == ["ready"] * 2

    def work(number: int) -> Callable[[], int]:
        def go() -> int:
            for gate in gates[:number]:
                gate.put("go")
            for _ in range(number):
                done.get()
            return number * runs

        return go

    yield work
    for gate in gates:
        gate.put("end")
    for process in processes:
        process.join()


def workers(data: TokenData, folder: Path) -> list[dict[str, Any]]:
    """Two workers against one: the time of a run with one over that with two."""
    rows = []
    with plain_processes(folder, 160, 3) as plain:
        rows.append(paired("two plain processes over one, no engine", plain(1), plain(2)))
    with Processes(folder, 1) as one, Processes(folder, 2) as two:
        warm(one, data), warm(two, data)
        rows.append(
            paired(
                "two workers over one, 12 runs queued",
                lambda: queue(one, data, 12, 160),
                lambda: queue(two, data, 12, 160),
            )
        )
        rows += [
            paired(
                f"two workers over one, searches side by side: {len(arms)}",
                lambda arms=arms: searches(one, data, arms, 12 // len(arms), 160),
                lambda arms=arms: searches(two, data, arms, 12 // len(arms), 160),
            )
            for arms in (tuple(ARMS), ("rlrs",))
        ]
    return rows


def ray(data: TokenData, folder: Path) -> list[dict[str, Any]]:
    """Ray on this machine against processes: the time of a run by processes over that by Ray."""
    with Processes(folder, 2) as ours, Ray(folder, processes=2) as other:
        warm(ours, data), warm(other, data)
        name = "Ray over processes, 16 runs queued, two workers each"
        return [paired(name, lambda: queue(ours, data, 16, 160), lambda: queue(other, data, 16, 160))]


class NullEngine:
    """Answers at once, so that what is timed is the driver."""

    slots, steps = 2, 0

    def __init__(self) -> None:
        self._jobs: list[tuple[Any, RunSpec]] = []
        self.submitted: list[float] = []

    @property
    def pending(self) -> int:
        """Runs not yet answered."""
        return len(self._jobs)

    def submit(self, key: Any, spec: Any, *rest: Any, **options: Any) -> None:
        """Take a run, and note when."""
        self.submitted.append(time.perf_counter())
        self._jobs.append((key, spec))

    def next(self, tick: Any = None, timeout: float | None = None) -> tuple[Any, RunResult]:
        """Answer the first of them."""
        key, spec = self._jobs.pop(0)
        score = 4.0 + int(spec.id, 16) % 1000 / 1000
        return key, RunResult(status="finished", steps=spec.steps, score=score, valid_loss=None, tokens=1, seconds=1.0)

    def __enter__(self) -> NullEngine:
        return self

    def __exit__(self, kind: object, error: object, at: object) -> None:
        pass


class Clocked:
    """A method that notes when and how long it thinks."""

    def __init__(self, method: Method) -> None:
        self._method = method
        self._thought: list[tuple[float, float]] = []

    def thinking_after(self, moment: float) -> float:
        """Seconds that it thought for, from a moment on."""
        return sum(seconds for start, seconds in self._thought if start > moment)

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The method's next batch."""
        start = time.perf_counter()
        try:
            return self._method.ask(history)
        finally:
            self._thought.append((start, time.perf_counter() - start))

    def result(self, history: History, reason: str) -> SearchResult:
        """The method's own answer."""
        return self._method.result(history, reason)


def driver(data: TokenData, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds of the driver's own work a trial, beside a run of the demo's proxy; of 100 trials after many."""
    train(run_spec(data, 40), data, validate=False)
    start = time.perf_counter()
    train(run_spec(data, 160), data, validate=False)
    run = time.perf_counter() - start
    rows = []
    for finished in (100, 1000):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "trials.db"
            tune({"proxy/rlrs": search(data, "rlrs", finished, 160, RANDOM)}, NullEngine(), TrialStore(path))
            asked = search(data, "rlrs", finished + 100, 160, RANDOM)
            clocked = Clocked(asked.method)
            again = replace(asked, method=clocked)
            engine, trials = NullEngine(), TrialStore(path)
            begin = time.perf_counter()
            tune({"proxy/rlrs": again}, engine, trials)
            first = engine.submitted[0]
            replay, rest = first - begin, time.perf_counter() - first
        each = (rest - clocked.thinking_after(first)) / len(engine.submitted)
        rows.append(
            {
                "what": f"driver and database, {finished} trials finished",
                "milliseconds_per_trial": 1000 * each,
                "share_of_a_run": each / run,
                "replay_seconds": replay,
                "run_seconds": run,
            }
        )
        print(
            f"driver at {finished}: {1000 * each:.1f} ms a trial, {each / run:.2%} of a run, {replay:.2f} s to replay"
        )
    return rows


def memory(data: TokenData, folder: Path) -> list[dict[str, Any]]:
    """Resident memory of the driver as trials end, up to 10,000."""
    points: list[list[float]] = []

    def watch(name: str, trial: Trial, spec: Any, found: bool) -> None:
        ended[0] += 1
        if ended[0] % 1000 == 0:
            points.append([ended[0], _resident(), time.perf_counter() - start])

    ended, start = [0], time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "trials.db"
        task = search(data, "rlrs", 10_000, 160, RANDOM)
        tune({"proxy/rlrs": task}, NullEngine(), TrialStore(path), on_trial=watch)
        size = path.stat().st_size
    growth = [b[1] - a[1] for a, b in pairwise(points)]
    row = {
        "what": "driver's memory, 1,000 to 10,000 trials",
        "trials_megabytes_seconds": points,
        "megabytes_per_1000": growth,
        "second_half_over_first": sum(growth[5:]) / 4 / (sum(growth[:5]) / 5),
        "database_megabytes": size / 1e6,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(row))
    return [row]


def _resident() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


PARTS = {"workers": workers, "ray": ray, "driver": driver, "memory": memory}


def main() -> None:
    """Measure the parts that the command line names, or all."""
    asked = sys.argv[1:] or list(PARTS)
    torch.set_num_threads(1)  # as in a worker
    if unknown := set(asked) - set(PARTS):
        sys.exit(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    path = RESULTS / "engines.json"
    kept = json.loads(path.read_text())["rows"] if path.exists() else []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config = DataConfig(source="stdlib", vocab_size=512, sequence_length=64, max_bytes=1_000_000)
        data = prepare(config, folder)
        for part in asked:
            made = {"commit": environment()["commit"]}
            rows = [{"part": part, **row, **made} for row in PARTS[part](data, folder)]
            kept = [row for row in kept if row["part"] != part] + rows
            write("engines", kept)


if __name__ == "__main__":
    main()
