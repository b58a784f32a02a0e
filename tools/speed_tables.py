"""The tables of docs/speed.md, from the committed results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pairs import RESULTS

DOCUMENT = Path(__file__).parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"
THREADS = (1, 2)
TARGETS = {
    ("dense 64", "transformers"): 1.1,
    ("dense 256", "transformers"): 1.1,
    ("moe 64", "transformers"): 1.25,
    ("dense 64", "plain loop"): 0.97,
    ("dense 256", "plain loop"): 0.97,
    ("moe 64", "plain loop"): 0.97,
    ("moe 64", "rlrs"): 0.7,
}
"""Group and other side -> what we set out to reach."""


def result_name(group: str, threads: int) -> str:
    """Name of a file of results."""
    return f"speed_{group.replace(' ', '_')}_{threads}"


def rows_of(group: str, threads: int) -> list[dict[str, Any]]:
    """What a group of sides measured."""
    return json.loads((RESULTS / f"{result_name(group, threads)}.json").read_text())["rows"]


def ratios(ours: dict[str, Any], other: dict[str, Any]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of our tokens per second over the other's, round by round."""
    pairs = zip(ours["tokens_per_second"], other["tokens_per_second"], strict=True)
    low, median, high = statistics.quantiles([mine / theirs for mine, theirs in pairs], n=4)
    return low, median, high


def trainers() -> str:
    """Our trainer against others."""
    lines = [
        "| model | threads | against | tokens/s, ours | tokens/s, its | ours over its | quartiles | aim | rounds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in ("dense 64", "dense 256", "moe 64"):
        for threads in THREADS:
            ours, *others = rows_of(group, threads)
            for other in others:
                low, median, high = ratios(ours, other)
                aim = TARGETS.get((group, other["kind"]))
                name = other["kind"] if other["shape"] == group else f"ours, {other['shape']}"
                speeds = [f"{statistics.median(row['tokens_per_second']):,.0f}" for row in (ours, other)]
                reached = "" if aim is None else f"{aim}, {_verdict(aim, low, median, high)}"
                cells = [group, str(threads), name, *speeds, f"{median:.2f}", f"{low:.2f} to {high:.2f}", reached]
                lines.append(f"| {' | '.join(cells)} | {len(ours['tokens_per_second'])} |")
    return "\n".join(lines)


def _verdict(aim: float, low: float, median: float, high: float) -> str:
    """Whether an aim was reached, and whether the rounds agree on it."""
    return ("reached" if median >= aim else "**missed**") + (", not settled" if low < aim < high else "")


def memory() -> str:
    """Peak memory of every side."""
    lines = ["| model | threads | side | peak, MB | of it for steps, MB |", "| --- | --- | --- | --- | --- |"]
    for group in ("dense 64", "dense 256", "moe 64"):
        for threads in THREADS:
            for row in rows_of(group, threads):
                if row["shape"] == group:
                    peak, before = row["memory_mb"]["peak"], row["memory_mb"]["before"]
                    lines.append(f"| {group} | {threads} | {row['kind']} | {peak:.0f} | {peak - before:.0f} |")
    return "\n".join(lines)


def options() -> str:
    """What the trainer's options do to its speed."""
    lines = ["| model | option | speed over that without | quartiles |", "| --- | --- | --- | --- |"]
    plain: dict[str, Any] = {}
    for row in rows_of("options", 1):
        if row["kind"] == "rlrs":
            plain = row
            continue
        low, median, high = ratios(row, plain)
        option = row["kind"].removeprefix("rlrs, ")
        lines.append(f"| {row['shape']} | {option} | {median:.2f} | {low:.2f} to {high:.2f} |")
    return "\n".join(lines)


def achieved() -> str:
    """Operations per second against the processor's peak."""
    lines = [
        "| model | dtype | threads | peak of products, GFLOP/s | a step, GFLOP/s | share of the peak |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for threads in THREADS:
        for row in rows_of("profile", threads):
            best = max(row["peak"].values())
            rate = row["flops_per_step"] / statistics.median(row["seconds"])
            cells = [
                row["shape"],
                row["dtype"],
                str(threads),
                f"{best / 1e9:.1f}",
                f"{rate / 1e9:.1f}",
                f"{rate / best:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def where() -> str:
    """Where a step's time goes."""
    rows = [(threads, row) for threads in THREADS for row in rows_of("profile", threads) if row["dtype"] == "float32"]
    parts = sorted(
        {part for _, row in rows for part in row["shares"]},
        key=lambda part: -sum(row["shares"].get(part, 0.0) for _, row in rows),
    )
    lines = [f"| model | threads | {' | '.join(parts)} |", f"| --- | --- | {' | '.join('---' for _ in parts)} |"]
    for threads, row in rows:
        cells = " | ".join(f"{row['shares'].get(part, 0.0):.0%}" for part in parts)
        lines.append(f"| {row['shape']} | {threads} | {cells} |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "trainers": trainers,
    "memory": memory,
    "options": options,
    "achieved": achieved,
    "where": where,
}


def document(page: str) -> str:
    """The page with its tables replaced."""
    for name, table in TABLES.items():
        before, found, rest = page.partition(BEGIN.format(name))
        assert found, name
        page = f"{before}{found}\n{table()}\n{END}{rest.partition(END)[2]}"
    return page
