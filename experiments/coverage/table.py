"""The tables of this experiment's README, from its results."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.coverage import store
from experiments.rows import Row

DOCUMENT = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


def shares(rows: list[Row]) -> str:
    """Every share of studies, a column for each pool of noise."""
    pools = list(dict.fromkeys(row["noise"] for row in rows))
    lines = [f"| what | how | seeds | {' | '.join(pools)} |", "| --- " * (3 + len(pools)) + "|"]
    table: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        if "error" in row:
            table.setdefault((row["measure"], row["method"], row["seeds"]), {})[row["noise"]] = row
    for (measure, method, seeds), by_pool in table.items():
        cells = (f"{by_pool[pool]['value']:.1%} +- {by_pool[pool]['error']:.1%}" for pool in pools)
        lines.append(f"| {measure} | {method} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(rows: list[Row]) -> str:
    """Seeds until a gain of a size is seen, a row for each size and pool."""
    lines = [
        "| noise | gain / noise | seen | seeds, mean | fixed number that sees it as often | saved | saved of 12 |",
        "| --- " * 7 + "|",
    ]
    for row in (row for row in rows if "fixed_seeds" in row):
        value, fixed = row["value"], row["fixed_seeds"]
        cells = (f"{row['effect']:g}", f"{row['chance']:.1%}", f"{value:.1f}", str(fixed))
        lines.append(
            f"| {row['noise']} | {' | '.join(cells)} | {1 - value / fixed:.0%} | {1 - value / row['seeds']:.0%} |"
        )
    return "\n".join(lines)


def nothing(rows: list[Row]) -> str:
    """Seeds until it is clear that there is no gain, by margin."""
    found = [row for row in rows if row["measure"].startswith("seeds used")]
    margins = list(dict.fromkeys(row["effect"] for row in found))
    lines = [f"| noise | {' | '.join(f'margin / noise {m:g}' for m in margins)} |", "| --- " * (1 + len(margins)) + "|"]
    for pool in dict.fromkeys(row["noise"] for row in found):
        cells = (f"{row['value']:.1f}" for row in found if row["noise"] == pool)
        lines.append(f"| {pool} | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES = {"shares of studies": shares, "seeds until a gain is seen": gains, "seeds used to find nothing": nothing}


def document(page: str) -> str:
    """A page with its tables anew."""
    rows = store.load()
    for name, table in TABLES.items():
        begin = BEGIN.format(name)
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        assert between.search(page), f"{DOCUMENT} lacks {begin}"
        page = between.sub(f"{begin}\n{table(rows)}\n{END}".replace("\\", r"\\"), page)
    return page
