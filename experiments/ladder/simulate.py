"""Simulated ladders with a planted truth: is the law recovered, do its intervals keep their word, is a loss noticed?

    python -m experiments.ladder.simulate            # about fifteen minutes of a core; results.parquet
    python -m experiments.ladder.simulate --most 20 --results /tmp/some.parquet

Every ladder has six rungs, widths 16, 24 and 32 at two horizons, each searched by the default method with 20 trials on
losses from `planted.py` with run-to-run noise of 0.006 nats; the target has twice the widest, at twice the longest.
Resumable: ladders that are in the file are not simulated again.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from experiments.ladder import store
from experiments.ladder.planted import NOISE, RUNGS, TARGET, Simulated, simulate
from experiments.rows import Row
from rlrs.environment import environment
from rlrs.transfer import Size, band, forecast_gain, forecast_loss, identified, judge

LADDERS = {"square root": 300, "deviating": 100, "router lost": 150, "router kept": 100, "losses": 300}
TUNED = "tuned base rate at the target"
CHUNK = 20
"""Ladders between writes."""
GONE = -math.log(2) / math.log(TARGET.width / 24)
"""Power of the width by which a ratio of 2 at width 24 is 1 at the target's."""
PLANTED: dict[str, dict[str, Any]] = {
    "square root": {},
    "deviating": {"deviation": 0.15},
    "router lost": {"router_best": (2.0, GONE)},
    "router kept": {"router_best": (3.0, 0.0)},
}
"""An embedding's ratio that grows with the square root of the width in all; rungs whose best points are off the law by
a factor of about 1.16; a router's ratio that helps below the target only, or as much everywhere."""
SIZES = [Size(width, 2, tokens) for width, tokens in RUNGS]


def recovered(ladder: Simulated, seed: int) -> list[Row]:
    """Intervals of the law beside the truth, and what its transfer loses beside others."""
    space, law = ladder.space, ladder.law
    column, base = space.names.index("embedding.start"), space.names.index("lr")
    near, far = (law.logarithms(Size(width, 2, 1.5e5), deviation=False)[:, column] for width in (24, 48))
    found = [_interval("power of width: embedding.start", 0.5, (far - near) / math.log(2))]
    best, draws = ladder.best, law.optima(TARGET).points
    for index, name in enumerate(space.names):
        # Rates, as the surface has them; of starts beside the base rate that is the ratio.
        ratio = name.endswith(".start")
        value, own = best[index] - best[base] * ratio, draws[:, index] - draws[:, base] * ratio
        found.append(_interval(f"best at the target: {name}", float(value), own))
    here = law.rates.coordinates(np.array(space.coordinates(ladder.found)))
    tuned = math.log(ladder.found["lr"]) + law.optima(TARGET).tuned(here, 2.0, law.noise)
    found.append(_interval(TUNED, ladder.tuned(ladder.found, NOISE, seed), tuned))
    carried = judge(law, space, ladder.found, TARGET)
    root = dict(ladder.found)
    for name in ("embedding.start", "embedding.end"):
        root[name] *= math.sqrt(TARGET.width / RUNGS[-1][0])
    for mode, point in (("law", carried.point), ("unchanged", ladder.found), ("sqrt-width", root)):
        found.append({"what": f"penalty of {mode}", "value": ladder.penalty(point)})
    found += [{"what": f"verdict on {v.component}", "status": v.fate, **_span(v.gain)} for v in carried.verdicts]
    return found


def forecast(seed: int) -> list[Row]:
    """Forecasts of a loss and of a gain beside the truth, which is measured with noise as well."""
    rng = np.random.default_rng([seed, 2])
    axes, floor, a, b = identified(SIZES), rng.uniform(1, 2), rng.uniform(0.15, 0.35), rng.uniform(0.1, 0.3)
    level, powers = 0.1, rng.normal(0, 0.03, 2)

    def noise() -> float:
        return NOISE * float(rng.standard_normal())

    def power(size: Size) -> tuple[float, float]:
        return (size.width / 24) ** -a, (size.tokens / 1.5e5) ** -b

    found = []
    for form in ("product", "sum"):

        def loss(size: Size, form: str = form) -> float:
            w, t = power(size)
            return floor + (1.6 * w * t if form == "product" else 0.8 * (w + t))

        ahead = forecast_loss(SIZES, [loss(size) + noise() for size in SIZES], axes, TARGET, seed)
        found.append(_interval(f"loss at the target: {form}", loss(TARGET) + noise(), ahead.losses))

    def gain(size: Size) -> float:
        return level + float(powers @ axes.coordinates(size))

    gains = [gain(size) + noise() for size in SIZES]
    found.append(
        _interval("gain at the target", gain(TARGET) + noise(), forecast_gain(SIZES, gains, axes, TARGET, seed))
    )
    return found


def _interval(what: str, truth: float, draws: Any) -> Row:
    return {"what": what, "value": truth, **_span(band(draws))}


def _span(found: tuple[float, float, float]) -> Row:
    return {"low": found[1], "high": found[2]}


def main() -> None:
    """Simulate what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=max(LADDERS.values()), help="ladders of each kind")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    given = parser.parse_args()
    commit = environment()["commit"]
    kept = store.load(given.results)
    last = {"losses": "gain at the target"}
    done = {
        (row["method"], row["seed"])
        for row in kept
        if row["kind"] == "simulated" and row["what"] == last.get(row["method"], TUNED)
    }
    for method in (*PLANTED, "losses"):
        todo = [seed for seed in range(min(given.most, LADDERS[method])) if (method, seed) not in done]
        for at in range(0, len(todo), CHUNK):
            new = {(method, seed) for seed in todo[at : at + CHUNK]}
            kept = [row for row in kept if row["kind"] != "simulated" or (row["method"], row["seed"]) not in new]
            for seed in todo[at : at + CHUNK]:
                rows = forecast(seed) if method == "losses" else recovered(simulate(seed, **PLANTED[method]), seed)
                kept += [{"kind": "simulated", "commit": commit, "method": method, "seed": seed, **row} for row in rows]
            store.rows.write(given.results, kept, store.SCHEMA)
            print(f"{method}: {min(at + CHUNK, len(todo))} of {len(todo)}", flush=True)


if __name__ == "__main__":
    main()
