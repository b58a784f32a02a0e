"""Search methods from the same start with the same budget: the incumbent's loss on fresh seeds against the steps spent.

    python -m experiments.search_methods.compare --out runs/search-benchmark

Goes through methods and proxies in the order of importance and can be killed and started again: finished runs are kept
in the folder. Writes what is finished to `results.parquet` (see `store.py`), or to `--results FILE`, which
`table --beside FILE` sets beside the committed rows: every trial of a search, and the losses of
the incumbents on seeds that no search saw; `python -m experiments.search_methods.table` makes the tables of
docs/search.md from them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.cache import CachedEngine
from experiments.search_methods import store
from experiments.search_methods.comparators import COMPARATORS
from experiments.search_methods.proxies import FRESH, PROXIES, TRAINING, Proxy, prepared
from experiments.search_methods.table import CHECKPOINTS
from rlrs.data import TokenData
from rlrs.environment import environment
from rlrs.records import RunResult, SearchResult, Trial
from rlrs.search import Method, Point, Processes, SearchTask, Space, TrialStore, make_method, tune
from rlrs.settings import SearchConfig
from rlrs.training import RunSpec

BUDGET = 48
"""Whole runs' worth of steps for every method."""
TO_THE_END = {"local": 2000, "response-surface": 192}
"""Methods that go on until they stop by themselves, and more whole runs than they have been seen to take."""

PHASES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("moe", ("local", "response-surface")),
    ("dense", ("response-surface", "local")),
    ("moe", ("gp", "trust-region", "cma-es", "policy-gradient", "tpe", "random")),
    ("dense", ("gp", "trust-region", "cma-es", "policy-gradient", "tpe", "random")),
    ("moe", ("response-surface, pruned", "response-surface, cheap", "response-surface, tested again")),
)
"""Proxies and methods in the order in which they are run."""
VARIANTS: dict[str, dict[str, Any]] = {
    "response-surface, pruned": {"method": "response-surface", "prune": 0.05},
    "response-surface, cheap": {"method": "response-surface", "fidelity": {"steps": 0.5, "verify": 6}},
    "response-surface, tested again": {"method": "response-surface", "retest": {"points": 3, "seeds": 3}},
}


def method_named(name: str, proxy: Proxy, seed: int, budget: int | None = None) -> Method:
    """A method with the benchmark's budget; without re-tests, but where they are what is compared."""
    space, runs = Space.around(proxy.start()), budget or TO_THE_END.get(name, BUDGET)
    if name in COMPARATORS:
        return COMPARATORS[name](space, runs, seed)
    options: dict[str, Any] = {"retest": {"points": 0}} | VARIANTS.get(name, {"method": name})
    settings = SearchConfig(**options, trials=runs, seed=seed)
    return make_method(space, settings, steps=proxy.steps, window=TRAINING.score_steps)


def whole_run(proxy: Proxy, seed: int, data: TokenData) -> Callable[[Point], RunSpec]:
    """What makes the whole run of a point."""
    return lambda point: proxy.spec(point, seed, data.hash)


def run_phase(
    methods: Sequence[str],
    proxies: Sequence[Proxy],
    repeats: int,
    engine: CachedEngine,
    trials: TrialStore,
    data: TokenData,
    file: Path,
) -> None:
    """Run these searches side by side; write their trials, and the losses of their incumbents, to a file."""
    keys = [(p, m, seed) for seed in range(repeats) for p in proxies for m in methods]
    searches = {
        f"{p.name}/{m}/{seed}": SearchTask(
            method_named(m, p, seed), whole_run(p, seed, data), limits={"trials": TO_THE_END.get(m, BUDGET)}
        )
        for p, m, seed in keys
    }
    results = tune(searches, engine, trials)
    for (proxy, _, _), (name, result) in zip(keys, results.items(), strict=True):
        write_trials(name, proxy, result, file)
    measure(list(searches), engine, data, file)


def measure(names: Sequence[str], engine: CachedEngine, data: TokenData, file: Path) -> None:
    """Train the incumbents of searches whose trials are written on seeds that no search saw; write their losses."""
    wanted: dict[tuple[str, float], list[float | None]] = {}
    searches = store.searches(store.load(file))
    for name in names:
        head, lines = searches[name]
        model, method, repeat = name.split("/")
        proxy = PROXIES[model]
        found = incumbents(lines, proxy.steps, head.get("best"))
        if method == "response-surface":
            *marks, end = found
            found = [(cost, answer(method, proxy, int(repeat), int(cost), lines)) for cost, _ in marks] + [end]
        for cost, at in found:
            wanted[name, cost] = [None] * len(FRESH)
            for n, seed in enumerate(FRESH):
                point = dict(zip(head["params"], at, strict=True))
                engine.submit((name, cost, n), proxy.spec(point, seed, data.hash))
    for (name, cost, n), result in engine.drain():
        wanted[name, cost][n] = result.valid_loss
    made: list[dict[str, Any]] = []
    for name in names:
        found = [{"runs": cost, "losses": losses} for (of, cost), losses in sorted(wanted.items()) if of == name]
        made += store.loss_rows(name, found, FRESH, environment())
    store.replace(names, ("loss",), made, file)


def write_trials(name: str, proxy: Proxy, result: SearchResult, file: Path) -> None:
    """One row for the search, and one for each trial: what was asked for and what came of it."""
    names = list(proxy.start())
    head = {"search": name, "whole_steps": proxy.steps, "stopped": result.reason, "params": names}
    head["best"] = [result.best[n] for n in names]
    lines: list[dict[str, Any]] = []
    for trial in result.trials:
        run = trial.result
        assert run is not None, "a search that has ended has no trial that has not"
        line: dict[str, Any] = {
            "n": trial.number,
            "at": [trial.params[n] for n in names],
            "steps": run.steps,
            "status": run.status,
            "score": run.score,
            "move": trial.move,
        }
        line |= {f"for_{k}": v for k in ("steps", "width", "seed") if (v := getattr(trial, k)) is not None}
        if trial.prune:
            line["limits"] = trial.prune.rungs
            line["rungs"] = [round(loss, 5) for _, loss in run.rungs]
        lines.append(line)
    store.replace([name], ("search", "trial"), store.search_rows(head, lines, environment()["commit"]), file)


def incumbents(
    lines: Sequence[dict[str, Any]], whole: int, final: list[float] | None
) -> list[tuple[float, list[float]]]:
    """Where the best whole run so far is, by its score on the search's seed, at every checkpoint; what it ended with.

    Costs are in whole runs' worth of the steps that all trials up to there took.
    """
    found: list[tuple[float, list[float]]] = []
    best, score, spent = None, math.inf, 0
    marks = [float(c) for c in CHECKPOINTS]
    for line in lines:
        spent += line["steps"]
        while marks and spent > marks[0] * whole:
            if best is not None:
                found.append((marks[0], best))
            marks.pop(0)
        is_whole = not any(f"for_{key}" in line for key in ("steps", "width", "seed"))
        if is_whole and line["score"] is not None and line["score"] < score:
            best, score = line["at"], line["score"]
    if best is not None:
        found.append((spent / whole, final or best))
    return found


def answer(method: str, proxy: Proxy, seed: int, budget: int, lines: Sequence[dict[str, Any]]) -> list[float]:
    """What a search with this budget ends with, which need not be its lowest score; `lines` are of a longer one."""
    search, known = method_named(method, proxy, seed, budget), iter(lines)
    history: list[Trial] = []
    while not isinstance(asked := search.ask(history), SearchResult):
        batch = history[-1].batch + 1 if history else 0
        for proposal in asked:
            line = next(known)
            assert list(proposal.params.values()) == line["at"], f"trial {line['n']} is not what the method proposes"
            run = RunResult(
                status=line["status"], steps=line["steps"], score=line["score"], valid_loss=None, tokens=0, seconds=0.0
            )
            number = len(history)
            history.append(Trial(**dict(proposal), number=number, batch=batch, run=f"{number:012x}", result=run))
    return [asked.best[name] for name in proxy.start()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/search-benchmark"))
    parser.add_argument("--results", type=Path, default=store.RESULTS, help="Parquet file that rows are written to")
    parser.add_argument("--methods", nargs="*")
    parser.add_argument("--proxies", nargs="*", default=list(PROXIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int)
    parser.add_argument("--measure", action="store_true", help="only incumbents of searches whose trials are written")
    arguments = parser.parse_args()
    data = prepared(arguments.out / "data")
    trials = TrialStore(arguments.out / "trials.db")
    with CachedEngine(Processes(arguments.out / "data", arguments.processes), arguments.out / "runs.jsonl") as engine:
        for proxy, methods in PHASES:
            methods = tuple(m for m in methods if arguments.methods is None or m in arguments.methods)
            if arguments.measure:
                names = [f"{proxy}/{m}/{seed}" for m in methods for seed in range(arguments.repeats)]
                written = store.searches(store.load(arguments.results))
                measure([name for name in names if name in written], engine, data, arguments.results)
                continue
            if proxy in arguments.proxies and methods:
                run_phase(methods, [PROXIES[proxy]], arguments.repeats, engine, trials, data, arguments.results)
                print(f"{proxy}: {', '.join(methods)} done, {engine.steps} steps trained", flush=True)


if __name__ == "__main__":
    main()
