"""The tables of docs/search.md, from benchmarks/search/results.

python -m benchmarks.search.table
"""

from __future__ import annotations

import json
import math
import statistics
from typing import Any

from benchmarks.search.compare import CHECKPOINTS, RESULTS, TO_THE_END


def main() -> None:
    searches = json.loads((RESULTS / "losses.json").read_text())["searches"]
    methods: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    for name, rows in searches.items():
        proxy, method, repeat = name.split("/")
        methods.setdefault(proxy, {}).setdefault(method, {})[repeat] = rows
    for proxy, by_method in methods.items():
        print(f"\n{proxy}\n\n| method | repeats | " + " | ".join(map(str, CHECKPOINTS)) + " | its end (runs) |")
        print("| --- " * (len(CHECKPOINTS) + 3) + "|")
        for method, repeats in by_method.items():
            ended, rows = method in TO_THE_END, list(repeats.values())
            cells = [_cell(rows, cost, ended) for cost in CHECKPOINTS]
            runs = statistics.fmean(r[-1]["runs"] for r in rows)
            last = f"{_cell(rows, math.inf, ended)} ({runs:.0f})" if ended else "-"
            print(f"| {method} | {len(repeats)} | " + " | ".join(cells) + f" | {last} |")
        for method in TO_THE_END:
            ends = [f"{r[-1]['runs']:.0f}: {statistics.fmean(r[-1]['losses']):.3f}" for r in by_method[method].values()]
            print(f"\n{method}, where each repeat ended (runs: loss): {', '.join(ends)}")


def _cell(repeats: list[list[dict[str, Any]]], cost: float, ended: bool) -> str:
    """Mean over repeats and fresh seeds of the incumbent at a cost; one that ended by itself keeps what it has."""
    values = []
    for rows in repeats:
        at = [row for row in rows if row["runs"] == cost]
        at = at or [row for row in rows[-1:] if ended or 0.9 * cost <= row["runs"]]
        if not at or not all(isinstance(loss, float) for loss in at[0]["losses"]):
            return "-"
        values.append(statistics.fmean(at[0]["losses"]))
    return f"{statistics.fmean(values):.3f}"


if __name__ == "__main__":
    main()
