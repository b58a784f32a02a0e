"""The tables of this experiment's README, from its results.

python -m experiments.ladder.table
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments.ladder import store
from experiments.rows import Row
from rlrs.comparison import interval
from rlrs.files import write_atomic

DOCUMENT = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"
FATES = ("carry", "rescale", "drop")
MODES = ("unchanged", "law", "sqrt-width", "mup")


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    names = list(head)
    return "\n".join(
        [f"| {' | '.join(names)} |", "| --- " * len(names) + "|", *(f"| {' | '.join(c)} |" for c in lines)]
    )


def _mean(values: Iterable[float]) -> float:
    kept = list(values)
    return math.fsum(kept) / len(kept)


def coverage(rows: list[Row]) -> str:
    """How often an interval of 90 % holds the truth, and how wide it is."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["kind"] == "simulated" and "low" in row and "value" in row:
            groups.setdefault((row["method"], row["what"]), []).append(row)
    lines = []
    for (method, what), own in groups.items():
        held = _mean(row["low"] <= row["value"] <= row["high"] for row in own)
        error = math.sqrt(held * (1 - held) / len(own))
        width = sorted(row["high"] - row["low"] for row in own)[len(own) // 2]
        off = _mean((row["low"] + row["high"]) / 2 - row["value"] for row in own)
        lines.append((method, what, str(len(own)), f"{held:.1%} +- {error:.1%}", f"{width:.3f}", f"{off:+.3f}"))
    return _table(
        ("planted", "interval", "ladders", "holds the truth", "median width", "mean error of its middle"), lines
    )


def fates(rows: list[Row], kind: str = "simulated") -> str:
    """What became of the components."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for row in rows:
        if row["kind"] == kind and row["what"].startswith("verdict on "):
            groups.setdefault((row["method"], row["what"].removeprefix("verdict on ")), Counter())[row["status"]] += 1
    names = FATES
    lines = [
        (method, component, str(own.total()), *(f"{own[name] / own.total():.1%}" for name in names))
        for (method, component), own in groups.items()
    ]
    return _table(("planted", "component", "ladders", *names), lines)


def fates_before(rows: list[Row]) -> str:
    """The same by the earlier rule."""
    return fates(rows, "simulated before")


def penalties(rows: list[Row]) -> str:
    """True loss above the best point at the target, over the ladders that were judged by both rules."""
    before, law = "law, earlier rule", "penalty of law"
    now = {(row["method"], row["seed"]) for row in rows if (row["kind"], row["what"]) == ("simulated", law)}
    groups: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        judged = row["kind"].startswith("simulated") and row["what"].startswith("penalty of ")
        if judged and (row["method"], row["seed"]) in now:
            mode = row["what"].removeprefix("penalty of ") if row["kind"] == "simulated" else before
            groups.setdefault(row["method"], {}).setdefault(mode, []).append(row["value"])
    modes = ("law", before, "unchanged", "sqrt-width")
    lines = [
        (method, str(len(own["law"])), *(f"{_mean(own[mode]):.4f}" for mode in modes)) for method, own in groups.items()
    ]
    return _table(("planted", "ladders", *modes), lines)


def held_out(rows: list[Row], again: str = "") -> str:
    """Forecasts for the held-out rung beside what was measured there."""
    lines = []
    for models in _models(rows, again):
        own = _of(rows, models, again)
        for row in own:
            if row["kind"] != "forecast" or (measured := _measured(row, own)) is None:
                continue
            value, words = measured
            inside = "yes" if row["low"] <= value <= row["high"] else "no"
            cells = (f"{row['value']:.4g}", f"{row['low']:.4g} to {row['high']:.4g}", f"{value:.4g}", inside)
            lines.append((models, words, row["arm"], row["method"], *cells))
    head = ("models", "what", "arm", "mode", "predicted", "90 % interval", "measured", "inside")
    return _table(head, lines)


def _measured(row: Row, own: list[Row]) -> tuple[float, str] | None:
    """What was measured of a forecast, and what it is, in words; None of what has no counterpart."""
    arm, mode, what = row["arm"], row["method"], row["what"]
    if what in ("loss", "gain", "rate") and not _final(own, mode, arm):
        return None  # a mode that the target was not trained by
    if what == "loss":
        return _loss(own, mode, arm), "final loss, nats"
    if what == "gain":
        return _loss(own, mode, arm) - _loss(own, mode, "rlrs"), "gain of rlrs on the arm, nats"
    if what == "rate":
        return next(r["params"]["lr"] for r in _final(own, mode, arm)), "base rate"
    if mode == "unchanged" and arm == "rlrs" and (what in ("lr", "final_fraction") or "." in what) and ":" not in what:
        found = [r["value"] for r in own if r["kind"] == "truth" and (r["method"], r["arm"]) == ("search", "rlrs")
                 and r["what"] == what]  # fmt: skip
        return (found[0], f"best {what}, by a search") if found else None
    return None


def _final(own: list[Row], mode: str, arm: str) -> list[Row]:
    return [r for r in own if r["kind"] == "truth" and (r["method"], r["arm"], r["what"]) == (mode, arm, "valid_loss")]


def _loss(own: list[Row], mode: str, arm: str) -> float:
    return _mean(row["value"] for row in _final(own, mode, arm))


def held_out_again(rows: list[Row]) -> str:
    """The same by the present rules."""
    return held_out(rows, " again")


def by_mode(rows: list[Row], again: str = "") -> str:
    """Losses of the held-out rung by mode, and paired differences to ratios that were carried unchanged."""
    lines = []
    for models in _models(rows, again):
        own = _of(rows, models, again)
        plain = {row["seed"]: row["value"] for row in _final(own, "unchanged", "rlrs")}
        for mode in MODES:
            final = _final(own, mode, "rlrs")
            if not final:
                continue
            losses = ", ".join(f"{row['value']:.4f}" for row in final)
            cell = "-"
            if mode != "unchanged":
                found = interval([row["value"] - plain[row["seed"]] for row in final])
                cell = f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
            lines.append((models, mode, losses, f"{_mean(row['value'] for row in final):.4f}", cell))
        for arm in ("embedding_only", "uniform") if plain else ():
            final = _final(own, "unchanged", arm)
            losses = ", ".join(f"{row['value']:.4f}" for row in final)
            lines.append((models, f"({arm}, unchanged)", losses, f"{_mean(r['value'] for r in final):.4f}", "-"))
    return _table(("models", "mode", "losses", "mean", "less that of unchanged, 95 %"), lines)


def by_mode_again(rows: list[Row]) -> str:
    """The same by the present rules."""
    return by_mode(rows, " again")


def verdicts_again(rows: list[Row]) -> str:
    """What became of the components by the present rules."""
    lines = [
        (row["models"], row["what"], f"{row['value']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}")
        for row in rows
        if (row["kind"], row["method"], row.get("arm")) == ("forecast again", "unchanged", "rlrs")
        and row["what"].partition(": ")[2] in FATES
    ]
    return _table(("models", "what", "worth at the target, nats", "90 % interval"), lines)


def powers(rows: list[Row]) -> str:
    """The law that was found, and the verdicts."""
    lines = [
        (row["models"], row["what"], f"{row['value']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}")
        for row in rows
        if (row["kind"], row["method"], row.get("arm")) == ("forecast", "unchanged", "rlrs") and ": " in row["what"]
    ]
    return _table(("models", "what", "median", "90 % interval"), lines)


def _of(rows: list[Row], models: str, again: str) -> list[Row]:
    """Rows of one ladder, its forecasts and what was measured, or those that were made again in their place."""
    own = [row for row in rows if row.get("models") == models]
    if not again:
        return own
    found = [{**row, "kind": row["kind"].removesuffix(again)} for row in own if row["kind"].endswith(again)]
    trained = {row["method"] for row in found if row["kind"] == "truth"}
    kept = [r for r in own if r["kind"] == "truth" and r["method"] in {"unchanged", "search"} - trained]
    return [*found, *kept]  # ratios that were carried unchanged, and a search, are the same by any rule


def _models(rows: list[Row], again: str) -> list[str]:
    return list(dict.fromkeys(row["models"] for row in rows if row["kind"] == f"forecast{again}"))


TABLES: dict[str, Callable[[list[Row]], str]] = {
    "coverage": coverage,
    "fates": fates,
    "penalties": penalties,
    "held out": held_out,
    "modes": by_mode,
    "powers": powers,
    "fates before": fates_before,
    "held out again": held_out_again,
    "modes again": by_mode_again,
    "verdicts again": verdicts_again,
}


def document(page: str) -> str:
    """A page with its tables anew."""
    rows = store.load()
    for name, table in TABLES.items():
        begin = BEGIN.format(name)
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(END)}", re.DOTALL)
        assert between.search(page), f"{DOCUMENT} lacks {begin}"
        page = between.sub(f"{begin}\n{table(rows)}\n{END}".replace("\\", r"\\"), page)
    return page


if __name__ == "__main__":
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))
