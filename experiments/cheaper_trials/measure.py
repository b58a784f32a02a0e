"""What cheaper trials cost in mistakes: good trials that pruning ends, and rank correlations of short and narrow runs.

    python -m experiments.cheaper_trials.measure --out runs/search-benchmark

Both look at points that the searches of `experiments/search_methods` tried. Pruning is replayed on the loss curves of
whole runs, trial by trial in each search's own order: every trial's end is known, so that what was ended early and
would have been the new best is counted. Writes `results.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from experiments.cache import CachedEngine
from experiments.search_methods import store
from experiments.search_methods.proxies import PROXIES, TRAINING, Proxy, prepared
from rlrs.environment import environment
from rlrs.files import write_atomic
from rlrs.records import Proposal, Pruning, RunResult, SearchResult, Trial
from rlrs.search import History, Processes, run_for
from rlrs.search.method import lowest
from rlrs.search.pruning import SHARES, Pruned

RESULTS = Path(__file__).parent / "results.json"
ERRORS = (0.02, 0.05, 0.1, 0.2)
CHEAP = ((0.125, None), (0.25, None), (0.5, None), (1.0, 16), (0.25, 16))
"""Share of the steps, and width, of cheap runs."""
METHOD, REPEATS = "response-surface", 3
"""Whose trials are looked at."""
SAMPLE = 24
"""Points of the first repeat that are trained at every fidelity."""


@dataclass(frozen=True)
class WholeRun:
    """A whole run of a search: its point, its end, and its windowed losses at every rung."""

    point: dict[str, float]
    result: RunResult


@dataclass(frozen=True)
class Recorded:
    """A method that proposes stated points, one at a time."""

    points: Sequence[dict[str, float]]

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The next of the points; see `Method.ask`."""
        if len(history) < len(self.points):
            return [Proposal(params=self.points[len(history)], move="recorded")]
        return self.result(history, "all are replayed")

    def result(self, history: History, reason: str) -> SearchResult:
        """The point with the lowest score."""
        return lowest(history, reason, len(history))


def recorded(engine: CachedEngine, data_hash: str) -> dict[str, list[WholeRun]]:
    """Search -> its runs in order; those that the folder does not have are trained."""
    found: dict[str, list[WholeRun]] = {}
    searches = store.searches(store.load())
    for name, seed in itertools.product(PROXIES, range(REPEATS)):
        proxy = PROXIES[name]
        head, lines = searches[f"{name}/{METHOD}/{seed}"]
        points = [dict(zip(head["params"], line["at"], strict=True)) for line in lines]
        rungs = tuple((round(share * proxy.steps), None) for share in SHARES)
        curve = Pruning(rungs=rungs, window=TRAINING.score_steps)
        for n, point in enumerate(points):
            engine.submit(n, proxy.spec(point, seed, data_hash), validate=False, prune=curve)
        results = dict(engine.drain())
        found[head["search"]] = [WholeRun(point, results[n]) for n, point in enumerate(points)]
    return found


def replay(runs: list[WholeRun], steps: int, error: float) -> dict[str, int]:
    """What pruning does to a search's runs: how many it ends, how many new bests, the steps it saves."""
    method = Pruned(Recorded([run.point for run in runs]), steps, TRAINING.score_steps, len(runs), error)
    counts = {"trials": 0, "new bests": 0, "pruned": 0, "pruned new bests": 0, "steps": 0, "steps saved": 0}
    history: list[Trial] = []
    lowest_score = math.inf
    for number, run in enumerate(runs):
        asked = method.ask(history)
        assert not isinstance(asked, SearchResult)
        trial = Trial(**dict(asked[0]), number=number, batch=number, run=f"{number:012x}", result=run.result)
        score = run.result.score
        if score is not None:
            assert trial.prune is not None
            losses = dict(run.result.rungs)
            limits = [(step, limit) for step, limit in trial.prune.rungs if limit is not None]
            end = next((step for step, limit in limits if losses[step] > limit), None)
            counts["trials"] += 1
            counts["new bests"] += score < lowest_score
            counts["steps"] += steps
            if end is None:
                lowest_score = min(lowest_score, score)
            else:
                counts["pruned"] += 1
                counts["pruned new bests"] += score < lowest_score
                counts["steps saved"] += steps - end
                seen = tuple((step, loss) for step, loss in run.result.rungs if step <= end)
                pruned = {"status": "pruned", "score": None, "steps": end, "rungs": seen}
                trial = trial.model_copy(update={"result": run.result.model_copy(update=pruned)})
        history.append(trial)
    return counts


def pruning(searches: dict[str, list[WholeRun]]) -> Iterator[dict[str, Any]]:
    """One line for each search and error rate."""
    for name, trials in searches.items():
        for error in ERRORS:
            yield {"search": name, "error": error, **replay(trials, PROXIES[name.split("/")[0]].steps, error)}


def fidelities(proxy: Proxy, trials: list[WholeRun], engine: CachedEngine, data_hash: str) -> Iterator[dict[str, Any]]:
    """Spearman's rank correlation of cheap scores with whole ones, and of two seeds' whole runs."""
    done = [t for t in trials if t.result.score is not None]
    done.sort(key=lambda t: float(t.result.score or 0))
    # Evenly over ranks, so that both the rough and the fine are seen.
    sample = [done[round(i)] for i in np.linspace(0, len(done) - 1, min(SAMPLE, len(done)))]
    for share, width in (*CHEAP, (1.0, None)):
        short = None if share == 1 else round(share * proxy.steps)
        for n, trial in enumerate(sample):
            proposal = Proposal(params=trial.point, move="", steps=short, width=width)
            spec = run_for(proposal, proxy.spec(trial.point, 0, data_hash))
            other_seed = short is None and width is None
            engine.submit(n, replace(spec, seed=500) if other_seed else spec, validate=False)
        results = dict(engine.drain())
        pairs = [(float(t.result.score or 0), results[n].score) for n, t in enumerate(sample)]
        ends = [(whole, cheap) for whole, cheap in pairs if cheap is not None]
        best = ends[: len(ends) // 2]
        kind = "whole, another seed" if short is None and width is None else "cheap"
        yield {
            "proxy": proxy.name,
            "kind": kind,
            "steps": share,
            "width": width,
            "points": len(ends),
            "rank correlation": _rank_correlation(ends),
            "rank correlation, better half": _rank_correlation(best),
            "scores": [[round(a, 4), round(b, 4)] for a, b in ends],
        }


def _rank_correlation(pairs: list[tuple[float, float]]) -> float:
    """Spearman's, of whole and cheap scores."""
    found: Any = spearmanr([whole for whole, _ in pairs], [cheap for _, cheap in pairs])
    return round(float(found.statistic), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/search-benchmark"))
    arguments = parser.parse_args()
    data = prepared(arguments.out / "data")
    with CachedEngine(Processes(arguments.out / "data"), arguments.out / "runs.jsonl") as engine:
        searches = recorded(engine, data.hash)
        replayed = list(pruning(searches))
        correlations = []
        for proxy in PROXIES.values():
            # Of one seed: losses of several differ by more than those of good points.
            first = searches[f"{proxy.name}/{METHOD}/0"]
            unique = list({tuple(t.point.values()): t for t in first}.values())
            correlations += fidelities(proxy, unique, engine, data.hash)
    record = {"environment": environment(), "pruning": replayed, "fidelity": correlations}
    write_atomic(RESULTS, json.dumps(record, indent=1) + "\n")
    for error in ERRORS:
        rows = [row for row in replayed if row["error"] == error]
        total = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("search", "error")}
        saved = statistics.fmean(row["steps saved"] / row["steps"] for row in rows)
        print(error, total, f"{saved:.1%} of the steps saved")
    for row in correlations:
        print({key: value for key, value in row.items() if key != "scores"})


if __name__ == "__main__":
    main()
