"""One surface fitted to every run that searches of the method's proxy have made; its minimum on the fresh seeds.

    python -m experiments.method_proxy.pooled --out runs/method-proxy

After `measure.py`, whose trials it reads together with those of the designs that were given up. Not a search with a
budget like the others': it has the runs of all of them, and shows what they know together.
Writes `results.parquet`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cache import CachedEngine
from experiments.method_proxy import store
from experiments.method_proxy.measure import DATA, FINAL_FRACTION, FRESH, LR, PAPER, SEARCHED, SETTINGS, STEPS, run_spec
from rlrs.data import prepare
from rlrs.environment import environment
from rlrs.ratios import BASE, Ratios
from rlrs.search import Processes, Space
from rlrs.search.methods.response_surface import LUCK
from rlrs.search.surface import Rates, fit

REACH = 0.4
"""How far from the best point the minimum may be, natural log: a factor of 1.5."""


def alike(names: set[str]) -> tuple[list[dict[str, float]], list[float]]:
    """Points and scores of the whole runs on the searches' seed that differ in these parameters alone."""
    rows = store.load()
    lines, arms = store.given_up(rows), store.arms(rows)
    lines += [*arms["search"]["trials"], *arms["second search"]["trials"]]
    points, scores = [], []
    for line in lines:
        at = line["params"]
        whole = line.get("steps", STEPS) == STEPS and not line.keys() & {"width", "seed"} and line.get("score")
        same = names - SETTINGS.keys() <= at.keys() <= {"lr", "final_fraction", *names}
        if whole and same and at.get("final_fraction") == FINAL_FRACTION:
            # Every component has a ratio, so all points may be said at one base rate.
            rates = {name: at[name] * at["lr"] / LR for name in names - SETTINGS.keys()}
            points.append({**SETTINGS, **rates, **{name: at[name] for name in SETTINGS if name in at}})
            scores.append(line["score"])
    return points, scores


def minimum() -> tuple[dict[str, float], dict[str, Any]]:
    """The surface's minimum near the point that is best by the fit; what is known of the fit."""
    start = {f"{c}.{end}": getattr(PAPER.get(c, BASE), end) for c in SEARCHED for end in ("start", "end")}
    space = Space.around({**SETTINGS, **start})
    rates = Rates(space.names, FINAL_FRACTION)
    points, scores = alike({*space.names})
    x_nd, y_n = np.array([rates.coordinates(np.array(space.coordinates(p))) for p in points]), np.array(scores)
    lowest = int(np.argmin(y_n))
    surface = fit(x_nd - x_nd[lowest], y_n - y_n[lowest], np.zeros(len(y_n)))
    near = [i for i in range(len(y_n)) if y_n[i] < y_n[lowest] + LUCK * surface.noise]
    best = min(near, key=lambda i: surface.value(x_nd[i] - x_nd[lowest]))
    surface = fit(x_nd - x_nd[best], y_n - y_n[best], np.zeros(len(y_n)))
    box = np.full(len(space), REACH)
    offset = surface.minimum(-box, box)
    gain = surface.value(0 * offset) - surface.value(offset)
    known = {"runs": len(y_n), "noise": surface.noise, "best_score": scores[best], "best": points[best]}
    return space.point(rates.logarithms(x_nd[best] + offset).tolist()), {**known, "expected_gain": gain}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/method-proxy"))
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    data = prepare(DATA, arguments.out / "data")
    found, known = minimum()
    print(known, found)
    points = {"minimum": found, "minimum, settings as published": {**found, **SETTINGS}}
    losses: dict[str, dict[int, float | None]] = {name: {} for name in points}
    with CachedEngine(Processes(arguments.out / "data", arguments.processes), arguments.out / "runs.jsonl") as engine:
        for name, point in points.items():
            run = run_spec({"lr": LR, "final_fraction": FINAL_FRACTION, **point}, Ratios({}), data)
            for seed in FRESH:
                engine.submit((name, seed), replace(run, seed=seed))
        for (name, seed), result in engine.drain():
            losses[name][seed] = result.valid_loss
            print(f"{name}, seed {seed}: {result.valid_loss}", flush=True)
    arms = {name: {"params": points[name], "losses": [losses[name][seed] for seed in FRESH]} for name in points}
    record = {"environment": environment(), "fit": known, "fresh_seeds": FRESH, "points": arms}
    store.save_fit(record)


if __name__ == "__main__":
    main()
