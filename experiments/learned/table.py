"""Tables of docs/learned.md, from results.parquet.

python -m experiments.learned.table          # prints them
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments.learned import store
from experiments.rows import Row
from rlrs.comparison import interval
from rlrs.files import write_atomic

DOCUMENT = Path(__file__).parents[2] / "docs" / "learned.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"
REFERENCE = "default search"
RIVALS = ("LLR", "SGG")
"""Published rivals, at the base rate that `uniform` was tuned to."""


def losses(rows: Sequence[Row], model: str, arm: str, base: float) -> dict[int, float]:
    """Seed -> validation loss of an arm, on the fresh seeds."""
    return {
        row["seed"]: row["valid_loss"]
        for row in rows
        if (row["model"], row["arm"], row["base"]) == (model, arm, base) and row["seed"] and "valid_loss" in row
    }


def table(rows: Sequence[Row], model: str) -> str:
    """Every arm of a model: cost, mean loss, and its paired difference to the default search."""
    lines = [
        "| arm | base rate | runs to find it | loss | minus the default search's (95 %) | minus uniform's (95 %) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    found = {}
    for row in rows:
        if row["model"] == model and not row["arm"].startswith("tuning"):
            found.setdefault((row["arm"], row["base"]), row["runs"])
    order = ["uniform", "embedding only", "default search", "learned", "learned, replayed", "learned + search of 8"]
    ranked = sorted(found.items(), key=lambda one: order.index(one[0][0]) if one[0][0] in order else len(order))
    for (arm, base), runs in ranked:
        own = losses(rows, model, arm, base)
        if not own:
            continue
        given = "searched" if "search" in arm or arm in ("uniform", "embedding only") else f"{base:g} x 8e-3"
        given = "uniform's" if arm in RIVALS else given
        given = f"{given} from {base:g} x 8e-3" if arm.startswith("learned +") else given
        differences = [_difference(own, losses(rows, model, other, 1.0)) for other in (REFERENCE, "uniform")]
        lines.append(
            f"| {arm} | {given} | {runs} | {statistics.fmean(own.values()):.3f} | {differences[0]} | {differences[1]} |"
        )
    return "\n".join(lines)


def tuning(rows: Sequence[Row], model: str) -> str:
    """Mean loss of the rule's settings over the tuning seeds."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row["model"] == model and row["arm"].startswith("tuning") and "valid_loss" in row:
            found.setdefault(row["arm"].removeprefix("tuning: "), []).append(row["valid_loss"])
    lines = ["| settings | loss |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {arm} | {statistics.fmean(of):.3f} |" for arm, of in found.items())])


def _difference(own: dict[int, float], other: dict[int, float]) -> str:
    seeds = sorted(own.keys() & other.keys())
    pairs = [own[seed] - other[seed] for seed in seeds]
    if len(pairs) < 2 or not any(pairs):
        return "-"
    of = interval(pairs)
    return f"{of.mean:+.3f} ({of.low:+.3f} to {of.high:+.3f})"


TABLES = {
    f"{what}, {model}": (lambda rows, make=make, model=model: make(rows, model))
    for model in ("dense", "moe", "dense, 4x", "dense, muon")
    for what, make in (("arms", table), ("settings", tuning))
    if what == "arms" or model in ("dense", "moe")
}


def document(page: str) -> str:
    """A page with its tables anew; a model of which nothing was measured has an empty one."""
    rows = store.load()
    for name, made in TABLES.items():
        begin = BEGIN.format(name)
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        assert between.search(page), f"{DOCUMENT} lacks {begin}"
        page = between.sub(f"{begin}\n{made(rows)}\n{END}", page)
    return page


if __name__ == "__main__":
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))
