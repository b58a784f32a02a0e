"""The tables of docs/search.md, from the results of this experiment.

    python -m experiments.search_methods.table            # writes them into the page
    python -m experiments.search_methods.table --ends     # where each search ended, printed
    python -m experiments.search_methods.table --beside FILE   # printed, with the searches of another file

The last column has the first of the costs at which a method's mean is no higher than where the local search ends, in
runs and as a share of the local search's own.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Mapping
from pathlib import Path

from experiments.rows import Row
from experiments.search_methods import store

DOCUMENT = Path(__file__).parents[2] / "docs" / "search.md"
BEGIN, END = "<!-- table: search methods, {} -->", "<!-- end of table -->"
CHECKPOINTS = (4, 9, 16, 24, 32, 40, 45, 48, 57, 64, 80, 96, 144)
"""Costs, in whole runs' worth of steps, at which the incumbent is measured on fresh seeds; and where a search ends.
45 and 57 are a quarter of what the local search takes on the dense model and on the mixture of experts."""
ENDED = ("local", "response-surface", "response-surface, lowest score", "response-surface, wider draws")
"""Methods whose searches went on until they stopped by themselves; the first two head the table."""

Repeats = list[list[Row]]
"""Of one method: for each repeat, its incumbents by cost."""


def by_method(proxy: str, beside: Path | None = None) -> dict[str, Repeats]:
    """Method -> its repeats on a proxy; those of another file as `METHOD (FILE)`."""
    found: dict[str, Repeats] = {}
    for file, words in ((store.RESULTS, ""), *([(beside, f" ({beside.stem})")] if beside else [])):
        for name, incumbents in store.losses(store.load(file)).items():
            of, method, _ = name.split("/")
            if of == proxy:
                found.setdefault(method + words, []).append(incumbents)
    return found


def table(proxy: str, beside: Path | None = None) -> str:
    """Losses of every method after so many runs, in Markdown."""
    methods = by_method(proxy, beside)
    heads = [*map(str, CHECKPOINTS), "its end (runs)", "at the local search's end"]
    lines = ["| method | repeats | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 2) + "|"]
    goal, goal_runs = _mean(methods["local"], math.inf, True), _runs(methods["local"])
    assert goal is not None
    for method, repeats in sorted(methods.items(), key=_order):
        ended = _ends_by_itself(method)
        losses = {cost: _mean(repeats, cost, ended) for cost in CHECKPOINTS}
        cells = ["-" if loss is None else f"{loss:.3f}" for loss in losses.values()]
        cells.append(f"{_mean(repeats, math.inf, ended):.3f} ({_runs(repeats):.0f})" if ended else "-")
        there = [cost for cost, loss in losses.items() if loss is not None and loss <= goal]
        cells.append(f"{there[0]} ({there[0] / goal_runs:.2f})" if there and method != "local" else "-")
        lines.append(f"| {method} | {len(repeats)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ends(proxy: str, beside: Path | None = None) -> str:
    """Where each repeat of the methods that end by themselves ended."""
    lines = []
    for method, repeats in by_method(proxy, beside).items():
        if _ends_by_itself(method):
            at = [f"{r[-1]['runs']:.0f}: {statistics.fmean(r[-1]['losses']):.3f}" for r in repeats]
            lines.append(f"{proxy}, {method} (runs: loss): {', '.join(at)}")
    return "\n".join(lines)


def document(page: str) -> str:
    """The page with its tables replaced."""
    for proxy in ("moe", "dense"):
        before, found, rest = page.partition(BEGIN.format(proxy))
        assert found, f"{DOCUMENT} has no place for the table of {proxy}"
        page = f"{before}{found}\n{table(proxy)}\n{END}{rest.partition(END)[2]}"
    return page


def _ends_by_itself(method: str) -> bool:
    return method.partition(" (")[0] in ENDED


def _runs(repeats: Repeats) -> float:
    """Runs that a method took until it ended, mean of its repeats."""
    return statistics.fmean(incumbents[-1]["runs"] for incumbents in repeats)


def _order(item: tuple[str, Repeats]) -> tuple[bool, float]:
    """The default and the local search first, then the others from the lowest loss after 40 runs."""
    method, repeats = item
    return method not in ENDED[:2], _mean(repeats, 40, True) or math.inf


def _mean(repeats: Repeats, cost: float, ended: bool) -> float | None:
    """Mean over repeats and fresh seeds of the incumbent at a cost; one that ended by itself keeps what it has."""
    values = []
    for incumbents in repeats:
        at: list[Mapping[str, object]] = [one for one in incumbents if one["runs"] == cost]
        at = at or [one for one in incumbents[-1:] if one["runs"] <= cost and (ended or 0.9 * cost <= one["runs"])]
        losses = at[0]["losses"] if at else None
        if not isinstance(losses, list) or not all(isinstance(loss, float) for loss in losses):
            return None
        values.append(statistics.fmean(losses))
    return statistics.fmean(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ends", action="store_true", help="print where each search ended, write nothing")
    parser.add_argument("--beside", type=Path, metavar="FILE", help="print, with the searches of another file")
    arguments = parser.parse_args()
    if arguments.beside and not arguments.beside.exists():
        parser.error(f"--beside: there is no file {arguments.beside}")
    if arguments.ends:
        print(ends("moe", arguments.beside), ends("dense", arguments.beside), sep="\n")
    elif arguments.beside:
        print(table("moe", arguments.beside), table("dense", arguments.beside), sep="\n\n")
    else:
        DOCUMENT.write_text(document(DOCUMENT.read_text()))
        print(DOCUMENT)


if __name__ == "__main__":
    main()
