"""Figures of one search's trials, parameter by parameter: U-plots, importance, parallel coordinates.

A parameter's value is drawn as a multiple of its value at the best point, so that all parameters share an axis.
"""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from rlrs.records import ArmSearch, Trial
from rlrs.report.drawing import Panel, ceiling, draw_trials, ended, frame, line, markers, outcome, plot
from rlrs.report.palette import EARLY, INK, RANKS, WRONG, Look, arm_look, parameter_look
from rlrs.report.text import TIMES
from rlrs.report.wording import Wording

FEWEST = 4
"""Whole trials with a score below which there is nothing to draw. Chosen here."""
MOST_PARAMETERS = 24
"""Parameters drawn; more would be a page of their own. Chosen here."""
MOST_TRIALS = 300
"""Trials drawn: the best, and all that were the best so far. More make the page slow. Chosen here."""
PLACE = "results.json arms.rlrs.search.trials"
"""Of the trials that are drawn."""
REACH = 64.0
"""Widest multiple of the best point's value in a frame; a search's own bounds, unless its settings say otherwise."""


@dataclass(frozen=True)
class Drawn:
    """The trials of a search that are drawn, and the parameters that they moved.

    Args:
        trials: at full length and width, on the search's seed.
        best: the one that the search ended with.
        improved: numbers of those that were the best so far.
        names: moved parameters, the most important first where that is known, else as in the search's space.
        notes: what is not drawn, in sentences.
        importance: share of the scores' variation that a parameter explains, by name; empty if not known.
        scored: number of trials with a score, before any were left out.
        words: of the page's language.
    """

    trials: list[Trial]
    best: Trial
    improved: frozenset[int]
    names: list[str]
    notes: list[str]
    importance: Mapping[str, float]
    scored: int
    words: Wording

    def multiple(self, trial: Trial, name: str) -> float:
        """A trial's value over the best point's; of a beta, of its distance from 1."""
        value, best = trial.params[name], self.best.params[name]
        above, below = (1 - value, 1 - best) if name in ("beta1", "beta2") else (value, best)
        return above / below if below else math.nan


def drawn(search: ArmSearch, words: Wording) -> Drawn | None:
    """What there is to draw of a search; None where there is too little."""
    whole = [trial for trial in search.trials if trial.whole and trial.params]
    others = sum(not trial.whole for trial in search.trials)
    scored, best = [trial for trial in whole if trial.measured], search.best_trial
    if best is None or not best.params or len(scored) < FEWEST:
        return None
    names = [name for name in best.params if len({trial.params.get(name) for trial in whole}) > 1]
    whole = [trial for trial in whole if set(names) <= set(trial.params)]
    notes, together = [], _moved_together(whole, names)
    for name, other in together.items():
        notes.append(words("trials.together", one=words.parameter(name), other=words.parameter(other)))
    names = sorted((n for n in names if n not in together), key=lambda n: -search.importance.get(n, 0.0))
    if len(names) > MOST_PARAMETERS:
        key = "trials.least_important" if search.importance else "trials.last"
        notes.append(words(key, left=len(names) - MOST_PARAMETERS, all=len(names)))
        names = names[:MOST_PARAMETERS]
    improved = search.improved
    if len(whole) > MOST_TRIALS:
        ranked = sorted(whole, key=lambda t: (t.number not in improved, t.score if t.measured else math.inf))
        notes.append(words("trials.most", all=f"{len(whole):,}", most=MOST_TRIALS))
        whole = sorted(ranked[:MOST_TRIALS], key=lambda t: t.number)
    if others:
        notes.append(words("trials.others", trials=words.n(others, "trial")))
    return Drawn(whole, best, improved, names, notes, search.importance, len(scored), words) if names else None


def _moved_together(trials: Sequence[Trial], names: Sequence[str]) -> dict[str, str]:
    """Parameters that were the same multiple of another in every trial: tied, or never moved apart."""
    seen: dict[tuple[str, ...], str] = {}
    together = {}
    for name in names:
        first = trials[0].params[name]
        course = tuple(f"{t.params[name] / first if first else 0:.3g}" for t in trials)
        if course in seen:
            together[name] = seen[course]
        else:
            seen[course] = name
    return together


def u_panels(shown: Drawn) -> list[Panel]:
    """Score against each parameter's multiple of its value at the best point."""
    scores = [t.score for t in shown.trials if t.measured]
    top = ceiling(scores)
    reach, words = _reach(shown), shown.words
    panels = []
    for number, name in enumerate(shown.names):
        figure, look = plot(""), parameter_look(name)
        joined = _alone(shown.trials, name)
        for group in joined:
            line(
                *(figure, [shown.multiple(t, name) for t in group], [min(t.score, top) for t in group]),
                words("u_plots.joined"),
                Look(look.light, look.dark),
                width=1.2,
                opacity=0.55,
                hover=None,
                source=PLACE,
            )
        draw_trials(
            *(figure, [shown.multiple(t, name) for t in shown.trials], shown.trials, words.parameter(name), look, top),
            words,
            style={"size": 5},
            source=PLACE,
        )
        record = [t for t in shown.trials if t.number in shown.improved]
        ring, diamond = {"symbol": "circle-open", "size": 8, "line_width": 1}, {"symbol": "diamond", "size": 9}
        for kind, look, marked, style in (
            (words("trials.best_so_far"), INK, record, ring),
            (words("trials.best"), arm_look("rlrs"), [shown.best], diamond),
        ):
            places = [shown.multiple(t, name) for t in marked], [min(t.score, top) for t in marked]
            hover = [_hover(t, name, words) for t in marked]
            markers(figure, *places, kind, look, hover=hover, style=style, source=PLACE)
        frame(figure, scores, top)
        figure.update_yaxes(nticks=7)
        figure.update_xaxes(title_text=None)
        _multiples(figure, reach, few=True)
        value = shown.best.params[name]
        panels.append(
            Panel(
                id=f"u-{number}",
                title=words.parameter(name),
                unit=words("u_plots.unit", value=f"{value:.3g}"),
                alt=words(
                    "u_plots.alt",
                    parameter=words.parameter(name),
                    value=f"{value:.3g}",
                    sets=words.n(len(joined), "set"),
                ),
                figure=figure,
                height=170,
                source=PLACE,
                logs=("x",),
            )
        )
    return panels


def _alone(trials: Sequence[Trial], name: str) -> list[list[Trial]]:
    """Sets of trials that differ in one parameter only, each in the order of its values."""
    sets: defaultdict[tuple[tuple[str, float], ...], list[Trial]] = defaultdict(list)
    for trial in trials:
        if trial.measured:
            sets[tuple((n, v) for n, v in trial.params.items() if n != name)].append(trial)
    return [
        sorted(group, key=lambda t: t.params[name])
        for group in sets.values()
        if len({t.params[name] for t in group}) > 1
    ]


def importance_panel(shown: Drawn) -> Panel | None:
    """Shares of the scores' variation that parameters explain; None where that is not known."""
    shares = [(n, shown.importance[n]) for n in reversed(shown.names) if n in shown.importance]
    if not shares:
        return None
    words = shown.words
    figure = plot(words("importance.x"))
    figure.add_trace(
        go.Bar(
            x=[100 * share for _, share in shares],
            y=[words.parameter(n) for n, _ in shares],
            orientation="h",
            name=words("importance.name"),
            meta="results.json arms.rlrs.search.importance",
            marker={"color": [parameter_look(n).light for n, _ in shares]},
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_layout(bargap=0.35)
    figure.update_xaxes(rangemode="tozero")
    first = words("list.parts").join(f"{words.parameter(n)} {share:.0%}" for n, share in reversed(shares[-3:]))
    return Panel(
        id="importance",
        title=words("importance.title"),
        unit=words("importance.unit"),
        alt=words("importance.alt", first=first),
        figure=figure,
        note=words("importance.note", trials=words.n(shown.scored, "whole_trial")),
        height=_height(len(shares)),
        source="results.json arms.rlrs.search.importance",
        logs=("x",),
    )


def parallel_panel(shown: Drawn) -> Panel:
    """Every trial as a line through its parameters, the better the darker."""
    words = shown.words
    figure = plot(words("parallel.x"))
    rows = {name: -row for row, name in enumerate(shown.names)}
    ranked = sorted((t for t in shown.trials if t.measured), key=lambda t: t.score)
    parts = [ranked[k * len(ranked) // 4 : (k + 1) * len(ranked) // 4] for k in range(4)]
    diverged = [t for t in shown.trials if ended(t) == "diverged"]
    early = [t for t in shown.trials if ended(t) == "pruned"]
    names = [words(f"parallel.quarter.{quarter}") for quarter in ("first", "second", "third", "last")]
    kinds = [
        *zip(names, RANKS, parts, strict=True),
        (words("ended.pruned"), EARLY, early),
        (words("ended.diverged"), WRONG, diverged),
    ]
    kinds = [kind for kind in kinds if kind[2]]
    for kind, look, trials in reversed(kinds):
        _paths(figure, shown, rows, trials, kind, look, 1.2 if kind != names[0] else 1.8)
    _paths(figure, shown, rows, [shown.best], words("trials.best"), arm_look("rlrs"), 3.0)
    reach = _reach(shown)
    _multiples(figure, reach)
    labels = [words.parameter(n) for n in rows]
    counts = words.list([words("parallel.count", count=len(trials), kind=kind) for kind, _, trials in kinds])
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=labels, range=[-len(rows) + 0.5, 0.5])
    return Panel(
        id="parallel",
        title=words("parallel.title"),
        unit=words("parallel.unit"),
        alt=words("parallel.alt", parameters=words.n(len(rows), "parameter"), counts=counts),
        figure=figure,
        legend=[(words("trials.best"), arm_look("rlrs")), *((kind, look) for kind, look, _ in kinds)],
        height=_height(len(rows)),
        note=words("parallel.note"),
        source=PLACE,
        logs=("x",),
    )


def _paths(
    figure: go.Figure,
    shown: Drawn,
    rows: Mapping[str, int],
    trials: Sequence[Trial],
    kind: str,
    look: Look,
    width: float,
) -> None:
    """All trials of a kind as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for trial in trials:
        x += [*(shown.multiple(trial, name) for name in rows), None]
        y += [*rows.values(), None]
        hover += [*(_hover(trial, name, shown.words) for name in rows), ""]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=kind,
            meta=PLACE,
            text=hover,
            hovertemplate=f"{kind}, %{{text}}<extra></extra>",
            line={"color": look.light, "width": width, "dash": look.dash},
        )
    )


def _hover(trial: Trial, name: str, words: Wording) -> str:
    parameter, value = words.parameter(name), f"{trial.params[name]:.3g}"
    said = words("trials.hover", number=trial.number, outcome=outcome(trial, words), parameter=parameter, value=value)
    return html.escape(said)


def _reach(shown: Drawn) -> tuple[float, float]:
    """Smallest and largest multiple in a frame that all parameters share."""
    every = [m for t in shown.trials for n in shown.names if (m := shown.multiple(t, n)) > 0]
    low, high = min(every, default=1.0), max(every, default=1.0)
    return min(max(low, 1 / REACH), 1.0), max(min(high, REACH), 1.0)


def _multiples(figure: go.Figure, reach: tuple[float, float], *, few: bool = False) -> None:
    """A logarithmic axis of multiples, with a mark at 1; `few` labels for a narrow figure."""
    low, high = math.log10(reach[0]), math.log10(reach[1])
    pad = 0.06 * (high - low) or 0.1
    step = 4 if high - low > 1.3 else 2
    step = 2 * step if few else step
    ticks = [float(step) ** k for k in range(-6, 7)]
    ticks = [t for t in ticks if low - pad <= math.log10(t) <= high + pad]
    labels = [f"1/{round(1 / t)}" if t < 1 else f"{t:g}{TIMES}" if t == 1 else f"{t:g}" for t in ticks]
    figure.update_xaxes(type="log", range=[low - pad, high + pad], tickvals=ticks, ticktext=labels, tickangle=0)
    figure.add_vline(x=1, line={"color": INK.light, "width": 1, "dash": "dot"}, opacity=0.5, layer="below")


def _height(rows: int) -> int:
    return max(220, 80 + 24 * rows)
