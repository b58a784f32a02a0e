"""Figures of the searches: their history on the proxy, and the base rates on the target."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlrs.report.drawing import KINDS, Panel, ceiling, draw_trials, frame, line, markers, plot, positive
from rlrs.report.palette import arm_look, arm_name
from rlrs.report.text import plural


def history_panel(search: Mapping[str, Mapping[str, Any]], method: str) -> Panel:
    """Score of the best trial so far, and of each, against the training steps spent; per arm.

    Args:
        search: of results.json.
        method: that the arms were searched with, in words; empty if it is not known.
    """
    figure = plot("training steps spent")
    # Scores of shorter or narrower runs, and on other seeds, do not compare with the others: only their steps count.
    whole = {arm: [t for t in part["trials"] if t.get("whole", True)] for arm, part in search.items()}
    scores = {arm: [t["score"] for t in trials] for arm, trials in whole.items()}
    every = [s for values in scores.values() for s in values if s is not None]
    top = ceiling(every)
    for arm, trials in whole.items():
        spent = dict(zip((t["number"] for t in search[arm]["trials"]), _spent(search[arm]["trials"]), strict=True))
        steps = [spent[trial["number"]] for trial in trials]
        draw_trials(figure, steps, trials, arm_name(arm), arm_look(arm), top)
        best = np.fmin.accumulate([math.nan if s is None else s for s in scores[arm]]).tolist()
        name, end = f"{arm_name(arm)}, best so far", [sum(t["steps"] for t in search[arm]["trials"])]
        line(figure, steps + end, positive(best + best[-1:]), name, arm_look(arm), shape="hv")
    frame(figure, every, top)
    figure.update_xaxes(rangemode="tozero", tickformat="~s")
    counts = ", ".join(
        f"{arm_name(arm)} {len(part['trials'])} trials, {part['steps']:,} steps, best {_plain(part['best']['score'])}"
        for arm, part in search.items()
    )
    others = sum(not t.get("whole", True) for part in search.values() for t in part["trials"])
    left_out = (
        f" {plural(others, 'trial')} of another length, width or seed do not compare: their steps count, their scores "
        "are left out."
        if others
        else ""
    )
    return Panel(
        id="search",
        title="Search on the proxy",
        unit="training loss at the end of a trial, nats per token",
        alt=f"Score of every trial and best so far against the training steps spent, per arm: {counts}.",
        figure=figure,
        legend=[(arm_name(arm), arm_look(arm)) for arm in search],
        note=f"Dots are trials{f' of the method {method}' if method else ''}, lines the best so far. {KINDS}{left_out}",
    )


def _spent(trials: Sequence[Mapping[str, Any]]) -> list[int]:
    """Steps that a search had spent when a trial ended, trial by trial."""
    return np.cumsum([trial["steps"] for trial in trials]).tolist()


def transfer_panel(transfer: Mapping[str, Mapping[str, Any]]) -> Panel:
    """Score on the target against the base rate, per arm."""
    figure = plot("base peak rate")
    every = [t["score"] for part in transfer.values() for t in part["trials"] if t["score"] is not None]
    top = ceiling(every)
    tried: set[float] = set()
    for arm, part in transfer.items():
        trials = sorted(part["trials"], key=lambda t: t["params"]["lr"])
        rates = [t["params"]["lr"] for t in trials]
        tried.update(rates)
        scores = [t["score"] if t["score"] is None else min(t["score"], top) for t in trials]
        line(figure, rates, scores, arm_name(arm), arm_look(arm), hover=None)
        draw_trials(figure, rates, trials, arm_name(arm), arm_look(arm), top)
        if part["best"]["score"] is not None:
            style = {"symbol": "circle-open", "size": 14, "line_width": 2}
            hover = f"{html.escape(arm_name(arm))}: best at {part['best']['params']['lr']:.3g}"
            best = [part["best"]["params"]["lr"]], [part["best"]["score"]]
            markers(figure, *best, arm_name(arm), arm_look(arm), hover=hover, style=style)
    frame(figure, every, top)
    ticks = _round_rates(min(tried), max(tried))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{rate:g}" for rate in ticks], tickangle=0)
    best = ", ".join(f"{arm_name(arm)} {part['best']['params']['lr']:.3g}" for arm, part in transfer.items())
    return Panel(
        id="base-rates",
        title="Base rate on the target",
        unit="training loss at the end of a run, nats per token",
        alt=f"Score on the target against the base rate; best base rate per arm: {best}.",
        figure=figure,
        legend=[(arm_name(arm), arm_look(arm)) for arm in transfer],
        note="A ring marks the base rate that the arm is compared at.",
    )


def _round_rates(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from just below `low` to just above `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rates = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return [rate for rate in rates if low / 2 < rate < high * 2]


def _plain(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
