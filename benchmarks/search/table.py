"""The tables of docs/search.md, from benchmarks/search/results.

python -m benchmarks.search.table
"""

from __future__ import annotations

import json
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
        print(f"\n{proxy}\n\n| method | repeats | " + " | ".join(map(str, CHECKPOINTS)) + " |")
        print("| --- " * (len(CHECKPOINTS) + 2) + "|")
        for method, repeats in by_method.items():
            cells = [_cell(list(repeats.values()), cost, method in TO_THE_END) for cost in CHECKPOINTS]
            print(f"| {method} | {len(repeats)} | " + " | ".join(cells) + " |")
        for method in TO_THE_END:
            print(f"\n{method}, at its end (runs: loss):", *(_end(r[-1]) for r in by_method[method].values()))


def _end(row: dict[str, Any]) -> str:
    return f"{row['runs']:.0f}: {statistics.fmean(row['losses']):.3f}"


def _cell(repeats: list[list[dict[str, Any]]], cost: int, ended: bool) -> str:
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
