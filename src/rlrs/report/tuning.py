"""Figures of the searches: their history on the proxy, and the base rates on the target."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlrs.records import ArmSearch, Trial
from rlrs.report.drawing import Panel, ceiling, draw_trials, frame, line, markers, plot, positive
from rlrs.report.palette import arm_look
from rlrs.report.wording import Wording
from rlrs.settings import Arm


def history_panel(searches: Mapping[Arm, ArmSearch], method: str, words: Wording) -> Panel:
    """Score of the best trial so far, and of each, against the training steps spent; per arm.

    Args:
        searches: on the proxy, by arm.
        method: that the arms were searched with, as the settings name it; empty if it is not known.
        words: of the page's language.
    """
    figure = plot(words("history.x"))
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
        place = f"results.json arms.{arm}.search.trials"
        draw_trials(figure, steps, trials, words.arm(arm), arm_look(arm), top, words, source=place)
        scores = [trial.score if trial.measured else math.nan for trial in trials]
        best = np.fmin.accumulate(scores).tolist() if scores else []
        name, end = words("history.best", arm=words.arm(arm)), [searches[arm].steps] if scores else []
        line(figure, steps + end, positive(best + best[-1:]), name, arm_look(arm), shape="hv", source=place)
    frame(figure, every, top)
    figure.update_xaxes(rangemode="tozero", tickformat="~s")
    counts = words("list.parts").join(
        words(
            "history.count",
            arm=words.arm(arm),
            trials=words.n(len(part.trials), "trial"),
            steps=f"{part.steps:,}",
            best=words("figure.none") if part.score is None else f"{part.score:.3f}",
        )
        for arm, part in searches.items()
    )
    others = sum(not trial.whole for part in searches.values() for trial in part.trials)
    notes = [
        words("history.note_method", method=method) if method else words("history.note"),
        words("figure.kinds"),
        words("history.left_out", trials=words.n(others, "trial")) if others else "",
    ]
    return Panel(
        id="search",
        title=words("history.title"),
        unit=words("history.unit"),
        alt=words("history.alt", counts=counts),
        figure=figure,
        legend=[(words.arm(arm), arm_look(arm)) for arm in searches],
        note=words.sentences(*notes),
        source="results.json arms.*.search.trials",
        logs=("y",),
    )


def _spent(trials: Sequence[Trial]) -> list[int]:
    """Steps that a search had spent when a trial ended, trial by trial."""
    return list(itertools.accumulate(trial.result.steps if trial.result else 0 for trial in trials))


def transfer_panel(transfers: Mapping[Arm, ArmSearch], words: Wording) -> Panel:
    """Score on the target against the base rate, per arm."""
    figure = plot(words("base_rates.x"))
    every = [trial.score for part in transfers.values() for trial in part.trials if trial.measured]
    top = ceiling(every)
    rates_tried: set[float] = set()
    for arm, part in transfers.items():
        trials = sorted((t for t in part.trials if t.params.get("lr", 0.0) > 0), key=lambda t: t.params["lr"])
        rates = [trial.params["lr"] for trial in trials]
        rates_tried.update(rates)
        scores = [min(trial.score, top) if trial.measured else None for trial in trials]
        place = f"results.json arms.{arm}.transfer.trials"
        line(figure, rates, scores, words.arm(arm), arm_look(arm), hover=None, source=place)
        draw_trials(figure, rates, trials, words.arm(arm), arm_look(arm), top, words, source=place)
        if part.score is not None:
            style = {"symbol": "circle-open", "size": 14, "line_width": 2}
            hover = html.escape(words("base_rates.best", arm=words.arm(arm), rate=f"{part.best['lr']:.3g}"))
            best_of = words("base_rates.ring", arm=words.arm(arm))
            place = f"results.json arms.{arm}.transfer.best"
            ring = [part.best["lr"]], [part.score], best_of, arm_look(arm)
            markers(figure, *ring, hover=hover, style=style, source=place)
    frame(figure, every, top)
    ticks = _round_rates(min(rates_tried, default=1e-3), max(rates_tried, default=1e-3))
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{rate:g}" for rate in ticks], tickangle=0)
    best = words.list([f"{words.arm(arm)} {part.best['lr']:.3g}" for arm, part in transfers.items()])
    return Panel(
        id="base-rates",
        title=words("base_rates.title"),
        unit=words("base_rates.unit"),
        alt=words("base_rates.alt", best=best),
        figure=figure,
        legend=[(words.arm(arm), arm_look(arm)) for arm in transfers],
        note=words("base_rates.note"),
        source="results.json arms.*.transfer.trials",
        logs=("x", "y"),
    )


def _round_rates(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten, from just below `low` to just above `high`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    rates = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    return [rate for rate in rates if low / 2 < rate < high * 2]
