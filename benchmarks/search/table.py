"""The tables of docs/search.md, from benchmarks/search/results.

python -m benchmarks.search.table

The last column has the first of the costs at which a method's mean is no higher than where the local search ends, in
runs and as a share of the local search's own.
"""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from benchmarks.search.compare import CHECKPOINTS, RESULTS, TO_THE_END

ENDED = (*TO_THE_END, "response-surface, lowest score", "response-surface, wider draws")
"""Methods whose searches went on until they stopped by themselves."""


def main() -> None:
    searches = json.loads((RESULTS / "losses.json").read_text())["searches"]
    methods: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for name, rows in searches.items():
        proxy, method, repeat = name.split("/")
        methods.setdefault(proxy, {}).setdefault(method, {})[repeat] = rows
    for proxy, by_method in methods.items():
        heads = [*map(str, CHECKPOINTS), "its end (runs)", "at the local search's end"]
        print(f"\n{proxy}\n\n| method | repeats | " + " | ".join(heads) + " |")
        print("| --- " * (len(heads) + 2) + "|")
        local = list(by_method["local"].values())
        goal, goal_runs = _mean(local, math.inf, True), statistics.fmean(r[-1]["runs"] for r in local)
        assert goal is not None
        for method, repeats in sorted(by_method.items(), key=_order):
            ended, rows = method in ENDED, list(repeats.values())
            losses = {cost: _mean(rows, cost, ended) for cost in CHECKPOINTS}
            cells = ["-" if loss is None else f"{loss:.3f}" for loss in losses.values()]
            runs, end = statistics.fmean(r[-1]["runs"] for r in rows), _mean(rows, math.inf, ended)
            cells.append(f"{end:.3f} ({runs:.0f})" if ended else "-")
            there = [cost for cost, loss in losses.items() if loss is not None and loss <= goal]
            cells.append(f"{there[0]} ({there[0] / goal_runs:.2f})" if there and method != "local" else "-")
            print(f"| {method} | {len(repeats)} | " + " | ".join(cells) + " |")
        for method in ENDED:
            ends = [f"{r[-1]['runs']:.0f}: {statistics.fmean(r[-1]['losses']):.3f}" for r in by_method[method].values()]
            print(f"\n{method}, where each repeat ended (runs: loss): {', '.join(ends)}")


def _order(item: tuple[str, dict[str, list[dict[str, Any]]]]) -> tuple[bool, float]:
    """The default and the local search first, then the others from the lowest loss after 40 runs."""
    method, repeats = item
    return method not in TO_THE_END, _mean(list(repeats.values()), 40, True) or math.inf


def _mean(repeats: list[list[dict[str, Any]]], cost: float, ended: bool) -> float | None:
    """Mean over repeats and fresh seeds of the incumbent at a cost; one that ended by itself keeps what it has."""
    values = []
    for rows in repeats:
        at = [row for row in rows if row["runs"] == cost]
        at = at or [row for row in rows[-1:] if row["runs"] <= cost and (ended or 0.9 * cost <= row["runs"])]
        if not at or not all(isinstance(loss, float) for loss in at[0]["losses"]):
            return None
        values.append(statistics.fmean(at[0]["losses"]))
    return statistics.fmean(values)


if __name__ == "__main__":
    main()
