"""Replayed stages of a rollout whose truth is known, looked at every day.

    python -m experiments.rollout.measure            # results.parquet and the table of README.md
    python -m experiments.rollout.measure --tables   # the table alone

Every day brings one pair of runs, whose difference is the true gain and noise from a pool of
`experiments.coverage.noise`, in units of its standard deviation; from the fourth day on the stage is looked at daily,
until it passes, or for 30 days. The stage is judged by `rlrs.rollout.judge`, as `rlrs rollout decide` does. Beside it,
on the same runs: Student's t-test looked at daily, and once, on the last day.

Replays are done in blocks, and each is in results.parquet before the next begins: started again, it goes on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from experiments import rows
from experiments.coverage import noise
from rlrs.comparison import p_value
from rlrs.environment import environment
from rlrs.rollout import Outcome, StageConfig, judge

HERE = Path(__file__).parent
RESULTS, DOCUMENT = HERE / "results.parquet", HERE / "README.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"
SCHEMA = pa.schema(
    [
        ("commit", pa.string()),
        ("noise", pa.string()),
        ("tau", pa.float64()),
        ("gain", pa.float64()),
        ("seed", pa.int64()),
        ("method", pa.string()),
        ("passed", pa.bool_()),
        ("days", pa.int64()),
    ]
)
REPLAYS, DAYS, FIRST = 1_000, 30, 4
GAINS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
"""True gains, in units of the noise; 0 is A/A."""
TAUS = (3.0, 1.0)
"""Settings of the test: the default, and the one for gains as large as the noise."""
ARMS = ("baseline", "candidate")
ANYTIME, PEEKED, ONCE = "rollout, daily looks", "t-test, daily looks", "t-test, last day alone"


def replay(pool: np.ndarray, gain: float, tau: float, seed: int) -> Iterator[dict[str, Any]]:
    """One stage, by each method: whether it passed, and on which day it ended; the pool has mean 0 and deviation 1."""
    values = np.random.default_rng([seed, round(10 * gain)]).choice(pool, DAYS)
    gains = (gain + values).tolist()
    stage = StageConfig(metric="loss", max_pairs=DAYS, min_pairs=FIRST, tau=tau, back_out="Load the old rates.")
    outcomes: list[Outcome] = []
    verdict, day = "more_data", 0
    while verdict == "more_data":
        outcomes += [Outcome(ARMS[0], str(day), {"loss": 0.0}), Outcome(ARMS[1], str(day), {"loss": -gains[day]})]
        day += 1
        if day >= FIRST:
            verdict = judge(stage, ARMS, outcomes).verdict
    yield {"method": ANYTIME, "passed": verdict == "pass", "days": day}
    if tau != TAUS[0]:
        return  # the others do not depend on it
    seen = [n for n in range(FIRST, DAYS + 1) if _student(gains[:n])]
    yield {"method": PEEKED, "passed": bool(seen), "days": seen[0] if seen else DAYS}
    yield {"method": ONCE, "passed": _student(gains), "days": DAYS}


def _student(gains: list[float]) -> bool:
    return p_value(gains) < 0.05 and math.fsum(gains) > 0


def measure(replays: int = REPLAYS) -> None:
    """All blocks that results.parquet does not have yet."""
    found = rows.read(RESULTS, SCHEMA) if RESULTS.exists() else []
    done = {(row["noise"], row["tau"], row["gain"]) for row in found}
    commit = environment()["commit"]
    for name, make in noise.POOLS.items():
        pool = make()
        pool = (pool - pool.mean()) / pool.std()
        for tau in TAUS:
            for gain in GAINS:
                if (name, tau, gain) in done:
                    continue
                began = time.monotonic()
                about = {"commit": commit, "noise": name, "tau": tau, "gain": gain}
                for seed in range(replays):
                    found += [{**about, "seed": seed, **row} for row in replay(pool, gain, tau, seed)]
                rows.write(RESULTS, found, SCHEMA)
                print(f"{name}, tau {tau:g}, gain {gain:g}: {time.monotonic() - began:.0f} s", flush=True)


def table(found: list[rows.Row]) -> str:
    """Share of stages that passed, and the days that it took, by gain; a group of lines for each pool of noise."""
    lines = [
        f"| noise | method | {' | '.join(f'gain {gain:g}' for gain in GAINS)} |",
        "| --- " * (2 + len(GAINS)) + "|",
    ]
    groups: dict[tuple[str, str, float], dict[float, list[rows.Row]]] = {}
    for row in found:
        groups.setdefault((row["noise"], row["method"], row["tau"]), {}).setdefault(row["gain"], []).append(row)
    order = {ANYTIME: 0, PEEKED: 1, ONCE: 2}
    for name, method, tau in sorted(groups, key=lambda key: (list(noise.POOLS).index(key[0]), order[key[1]], -key[2])):
        by_gain = groups[name, method, tau]
        what = f"{method}, `tau: {tau:g}`" if method == ANYTIME else method
        lines.append(f"| {name} | {what} | {' | '.join(_cell(by_gain[gain]) for gain in GAINS)} |")
    return "\n".join(lines)


def _cell(group: list[rows.Row]) -> str:
    passed = [row["days"] for row in group if row["passed"]]
    share = f"{len(passed) / len(group):.1%}"
    return f"{share}, {np.median(passed):.0f} days" if len(passed) >= len(group) / 4 else share


def document(page: str) -> str:
    """The page with its table anew."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table(rows.read(RESULTS, SCHEMA))}\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", action="store_true", help="the table alone")
    if not parser.parse_args().tables:
        measure()
    DOCUMENT.write_text(document(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
