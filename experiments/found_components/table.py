"""Tables of docs/found-components.md, from results.parquet.

python -m experiments.found_components.table          # writes them
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments import rows
from experiments.found_components.measure import RESULTS, SCHEMA
from experiments.rows import Row
from rlrs.files import write_atomic

DOCUMENT = Path(__file__).parents[2] / "docs" / "found-components.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


def planted(found: Sequence[Row]) -> str:
    """Agreement with what was planted, by model, optimizer and strength."""
    lines = [
        "| model | optimizer | gradients times | noise | components, by seed | adjusted Rand, by seed | mean |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    groups: dict[tuple[str, str, float, float], list[Row]] = {}
    for row in found:
        if row["question"] == "planted":
            groups.setdefault((row["model"], row["optimizer"], row["scale"], row["noise"]), []).append(row)
    for (model, optimizer, scale, noise), own in groups.items():
        counts = ", ".join(str(row["components"]) for row in own)
        scores = ", ".join(f"{row['planted']:.2f}" for row in own)
        mean = statistics.fmean(row["planted"] for row in own)
        lines.append(f"| {model} | {optimizer} | {scale:g} | {noise:g} | {counts} | {scores} | {mean:.2f} |")
    return "\n".join(lines)


def plain(found: Sequence[Row]) -> str:
    """Groupings of runs as they are."""
    lines = [
        "| model | optimizer | components | silhouette | stability | between seeds | named | carried |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in found:
        if not row["question"].startswith("plain"):
            continue
        size = "8 blocks, d=48" if row["question"].endswith("larger") else "4 blocks, d=32"
        names = ("silhouette", "stability", "seeds", "named", "carried")
        cells = " | ".join(f"{row[name]:.2f}" if name in row else "-" for name in names)
        lines.append(f"| {row['model']}, {size} | {row['optimizer']} | {row['components']} | {cells} |")
    return "\n".join(lines)


TABLES = {"planted": planted, "plain": plain}


def document(page: str) -> str:
    """A page with its tables anew."""
    found = rows.read(RESULTS, SCHEMA)
    for name, make in TABLES.items():
        begin = BEGIN.format(name)
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        assert between.search(page), f"{DOCUMENT} lacks {begin}"
        made = f"{begin}\n{make(found)}\n{END}"
        page = between.sub(lambda _, made=made: made, page)
    return page


if __name__ == "__main__":
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))
