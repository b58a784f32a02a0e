"""The tables of docs/search.md, from benchmarks/search/results.

python -m benchmarks.search.table
"""

from __future__ import annotations

import json
import statistics

from benchmarks.search.compare import CHECKPOINTS, RESULTS


def main() -> None:
    searches = json.loads((RESULTS / "losses.json").read_text())["searches"]
    methods: dict[str, dict[str, dict[str, list[dict[str, object]]]]] = {}
    for name, rows in searches.items():
        proxy, method, repeat = name.split("/")
        methods.setdefault(proxy, {}).setdefault(method, {})[repeat] = rows
    for proxy, by_method in methods.items():
        print(f"\n{proxy}\n\n| method | repeats | " + " | ".join(map(str, CHECKPOINTS)) + " |")
        print("| --- " * (len(CHECKPOINTS) + 2) + "|")
        for method, repeats in by_method.items():
            cells = [_cell(list(repeats.values()), cost) for cost in CHECKPOINTS]
            print(f"| {method} | {len(repeats)} | " + " | ".join(cells) + " |")


def _cell(repeats: list[list[dict[str, object]]], cost: int) -> str:
    """Mean over repeats and fresh seeds of the incumbent at a cost; a search that has ended keeps what it has."""
    values = []
    for rows in repeats:
        at = [row for row in rows if row["runs"] == cost] or [row for row in rows[-1:] if 0.9 * cost <= row["runs"]]  # type: ignore[operator]
        if not at or not all(isinstance(loss, float) for loss in at[0]["losses"]):  # type: ignore[attr-defined]
            return "-"
        values.append(statistics.fmean(at[0]["losses"]))  # type: ignore[arg-type]
    return f"{statistics.fmean(values):.3f}"


if __name__ == "__main__":
    main()
