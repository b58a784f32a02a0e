"""Two methods on the same proxies and seeds: paired differences of the losses that their incumbents have.

    python -m experiments.search_methods.paired experiments/search_methods/rebuild.parquet \
        response-surface "response-surface (before)"

A search that has ended keeps what it has. Searches that were cut at a budget count up to there, and not at their ends.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path

from experiments.rows import Row
from experiments.search_methods import store
from rlrs.comparison import interval

COSTS = (16, 24, 32, 40, 48, 57)
"""Whole runs' worth of steps."""
WHOLE = range(3)
"""Seeds whose searches went on to their own ends."""


def at(incumbents: list[Row], cost: float) -> float:
    """Mean loss on the fresh seeds of the last incumbent that was measured by this cost."""
    return statistics.fmean([one for one in incumbents if one["runs"] <= cost][-1]["losses"])


def table(file: Path, first: str, second: str) -> str:
    """Differences of the first method minus the second at each cost, in Markdown."""
    losses = store.losses(store.load(file))
    pairs = {name: losses[other] for name in losses if (other := _other(name, first, second)) in losses}
    ended = [name for name in pairs if int(name.rpartition("/")[2]) in WHOLE]
    lines = ["| runs | pairs | difference, nats | 95 % interval |", "| --- | --- | --- | --- |"]
    for cost in (*COSTS, math.inf):
        of = ended if math.isinf(cost) else list(pairs)
        found = interval([at(losses[name], cost) - at(pairs[name], cost) for name in of])
        words = "their ends" if math.isinf(cost) else f"{cost:g}"
        lines.append(f"| {words} | {len(of)} | {found.mean:+.4f} | {found.low:+.4f} to {found.high:+.4f} |")
    return "\n".join(lines)


def _other(name: str, first: str, second: str) -> str | None:
    proxy, method, seed = name.split("/")
    return f"{proxy}/{second}/{seed}" if method == first else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("first")
    parser.add_argument("second")
    print(table(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
