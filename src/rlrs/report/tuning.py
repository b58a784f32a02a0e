"""Figures of the searches: their history on the proxy, and the base rates on the target."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlrs.records import ArmSearch, Trial
from rlrs.report.drawing import KINDS, Panel, ceiling, draw_trials, frame, line, markers, plot, positive
from rlrs.report.palette import arm_look, arm_name
from rlrs.report.text import plural
from rlrs.settings import Arm


def history_panel(searches: Mapping[Arm, ArmSearch], method: str) -> Panel:
    """Score of the best trial so far, and of each, against the training steps spent; per arm.

    Args:
        searches: on the proxy, by arm.
        method: that the arms were searched with, in words; empty if it is not known.
    """
    figure = plot("training steps spent")
    # Scores of shorter or narrower runs, and on other seeds, do not compare with the others: only their steps count.
    whole: dict[Arm, list[Trial]] = {
        arm: [trial for trial in part.trials if trial.whole] for arm, part in searches.items()
    }
    every = [trial.score for trials in whole.values() for trial in trials if trial.measured]
    top = ceiling(every)
    for arm, trials in whole.items():
        every_trial = searches[arm].trials
        spent = dict(zip((trial.number for trial in every_trial), _spent(every_trial), strict=True))
        steps = [spent[trial.number] for trial in trials]
        draw_trials(figure, steps, trials, arm_name(arm), arm_look(arm), top)
        scores = [trial.score if trial.measured else math.nan for trial in trials]
        best = np.fmin.accumulate(scores).tolist() if scores else []
        name, end = f"{arm_name(arm)}, best so far", [searches[arm].steps] if scores else []
        line(figure, steps + end, positive(best + best[-1:]), name, arm_look(arm), shape="hv")
    frame(figure, every, top)
    figure.update_xaxes(rangemode="tozero", tickformat="~s")
    counts = ", ".join(
        f"{arm_name(arm)} {len(part.trials)} trials, {part.steps:,} steps, best {_plain(part.score)}"
        for arm, part in searches.items()
    )
    others = sum(not trial.whole for part in searches.values() for trial in part.trials)
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
        legend=[(arm_name(arm), arm_look(arm)) for arm in searches],
        note=f"Dots are trials{f' of the method {method}' if method else ''}, lines the best so far. {KINDS}{left_out}",
    )


def _spent(trials: Sequence[Trial]) -> list[int]:
    """Steps that a search had spent when a trial ended, trial by trial."""
    return list(itertools.accumulate(trial.result.steps if trial.result else 0 for trial in trials))


def transfer_panel(transfers: Mapping[Arm, ArmSearch]) -> Panel:
    """Score on the target against the base rate, per arm."""
    figure = plot("base peak rate")
    every = [trial.score for part in transfers.values() for trial in part.trials if trial.measured]
    top = ceiling(every)
    rates_tried: set[float] = set()
    for arm, part in transfers.items():
        trials = sorted((t for t in part.trials if t.params.get("lr", 0.0) > 0), key=lambda t: t.params["lr"])
        rates = [trial.params["lr"] for trial in trials]
        rates_tried.update(rates)
        scores = [min(trial.score, top) if trial.measured else None for trial in trials]
        line(figure, rates, scores, arm_name(arm), arm_look(arm), hover=None)
        draw_trials(figure, rates, trials, arm_name(arm), arm_look(arm), top)
        if part.score is not None:
            style = {"symbol": "circle-open", "size": 14, "line_width": 2}
            hover = f"{html.escape(arm_name(arm))}: best at {part.best['lr']:.3g}"
            markers(figure, [part.best["lr"]], [part.score], arm_name(arm), arm_look(arm), hover=hover, style=style)
    frame(figure, every, top)
    ticks = _round_rates(min(rates_tried, default=1e-3), max(rates_tried, default=1e-3))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{rate:g}" for rate in ticks], tickangle=0)
    best = ", ".join(f"{arm_name(arm)} {part.best['lr']:.3g}" for arm, part in transfers.items())
    return Panel(
        id="base-rates",
        title="Base rate on the target",
        unit="training loss at the end of a run, nats per token",
        alt=f"Score on the target against the base rate; best base rate per arm: {best}.",
        figure=figure,
        legend=[(arm_name(arm), arm_look(arm)) for arm in transfers],
        note="A ring marks the base rate that the arm is compared at.",
    )


def _round_rates(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from just below `low` to just above `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rates = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return [rate for rate in rates if low / 2 < rate < high * 2]


def _plain(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
