"""Figures of one search's trials, parameter by parameter: U-plots, importance, parallel coordinates.

A parameter's value is drawn as a multiple of its value at the best point, so that all parameters share an axis.
"""

from __future__ import annotations

import html
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from rlrs.report.drawing import Panel, ceiling, draw_trials, frame, line, markers, plot
from rlrs.report.palette import EARLY, INK, RANKS, WRONG, Look, arm_look, parameter_look, parameter_name
from rlrs.report.text import TIMES, plural

FEWEST = 4
"""Whole trials with a score below which there is nothing to draw. Chosen here."""
MOST_PARAMETERS = 24
"""Parameters drawn; more would be a page of their own. Chosen here."""
MOST_TRIALS = 300
"""Trials drawn: the best, and all that were the best so far. More make the page slow. Chosen here."""
REACH = 64.0
"""Widest multiple of the best point's value in a frame; a search's own bounds, unless its settings say otherwise."""


@dataclass(frozen=True)
class Tried:
    """The trials of a search that compare with each other, and which parameters they moved.

    Args:
        trials: at full length and width, on the search's seed.
        best: the one that the search ended with.
        names: moved parameters, the most important first where that is known, else as in the search's space.
        notes: what is not drawn, in sentences.
        importance: share of the scores' variation that a parameter explains, by name; empty if not known.
        scored: number of trials with a score, before any were left out.
    """

    trials: list[Mapping[str, Any]]
    best: Mapping[str, Any]
    names: list[str]
    notes: list[str]
    importance: Mapping[str, float]
    scored: int

    def multiple(self, trial: Mapping[str, Any], name: str) -> float:
        """A trial's value over the best point's; of a beta, of its distance from 1."""
        value, best = trial["params"][name], self.best["params"][name]
        return (1 - value) / (1 - best) if name in ("beta1", "beta2") else value / best


def tried(search: Mapping[str, Any]) -> Tried | None:
    """What there is to draw of a search; None where there is too little."""
    whole = [t for t in search["trials"] if t.get("whole", True) and t["params"]]
    scored = [t for t in whole if t["score"] is not None]
    best = next((t for t in whole if t["number"] == search["best"]["number"]), None)
    if best is None or len(scored) < FEWEST:
        return None
    names = [n for n in best["params"] if len({t["params"].get(n) for t in whole}) > 1]
    whole = [t for t in whole if set(names) <= set(t["params"])]
    notes, together = [], _moved_together(whole, names)
    for name, other in together.items():
        notes.append(f"{parameter_name(name)} moved with {parameter_name(other)} in every trial and is not drawn.")
    importance = search.get("importance") or {}
    names = sorted((n for n in names if n not in together), key=lambda n: -importance.get(n, 0.0))
    if len(names) > MOST_PARAMETERS:
        which = "least important" if importance else "last"
        notes.append(f"The {which} {len(names) - MOST_PARAMETERS} of {len(names)} parameters are not drawn.")
        names = names[:MOST_PARAMETERS]
    if len(whole) > MOST_TRIALS:
        ranked = sorted(whole, key=lambda t: (not t.get("improved"), math.inf if t["score"] is None else t["score"]))
        notes.append(f"Of {len(whole):,} trials the best {MOST_TRIALS} are drawn.")
        whole = sorted(ranked[:MOST_TRIALS], key=lambda t: t["number"])
    if (others := len(search["trials"]) - sum(t.get("whole", True) for t in search["trials"])) > 0:
        notes.append(f"{plural(others, 'trial')} of another length, width or seed do not compare, and are left out.")
    return Tried(whole, best, names, notes, importance, len(scored)) if names else None


def _moved_together(trials: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, str]:
    """Parameters that were the same multiple of another in every trial: tied, or never moved apart."""
    seen: dict[tuple[str, ...], str] = {}
    together = {}
    for name in names:
        first = trials[0]["params"][name]
        course = tuple(f"{t['params'][name] / first if first else 0:.3g}" for t in trials)
        if course in seen:
            together[name] = seen[course]
        else:
            seen[course] = name
    return together


def u_panels(tried: Tried) -> list[Panel]:
    """Score against each parameter's multiple of its value at the best point."""
    scores = [t["score"] for t in tried.trials if t["score"] is not None]
    top = ceiling(scores)
    reach = _reach(tried)
    panels = []
    for number, name in enumerate(tried.names):
        figure, look = plot(""), parameter_look(name)
        joined = _alone(tried.trials, name)
        for group in joined:
            line(
                *(figure, [tried.multiple(t, name) for t in group], [min(t["score"], top) for t in group], ""),
                Look(look.light, look.dark),
                width=1.2,
                opacity=0.55,
                hover=None,
            )
        draw_trials(
            *(figure, [tried.multiple(t, name) for t in tried.trials], tried.trials, parameter_name(name), look, top),
            style={"size": 5},
        )
        record = [t for t in tried.trials if t.get("improved")]
        ring, diamond = {"symbol": "circle-open", "size": 8, "line_width": 1}, {"symbol": "diamond", "size": 9}
        for kind, look, marked, style in (
            ("best so far", INK, record, ring),
            ("best", arm_look("rlrs"), [tried.best], diamond),
        ):
            places = [tried.multiple(t, name) for t in marked], [min(t["score"], top) for t in marked]
            markers(figure, *places, kind, look, hover=[_hover(t, name) for t in marked], style=style)
        frame(figure, scores, top)
        figure.update_yaxes(nticks=7)
        figure.update_xaxes(title_text=None)
        _multiples(figure, reach, few=True)
        value = tried.best["params"][name]
        panels.append(
            Panel(
                id=f"u-{number}",
                title=parameter_name(name),
                unit=f"1{TIMES} is {value:.3g}",
                alt=f"Score against {parameter_name(name)}, as a multiple of the best point's {value:.3g}; "
                f"{plural(len(joined), 'set')} of trials moved nothing else.",
                figure=figure,
                height=170,
            )
        )
    return panels


def _alone(trials: Sequence[Mapping[str, Any]], name: str) -> list[list[Mapping[str, Any]]]:
    """Sets of trials that differ in one parameter only, each in the order of its values."""
    sets: defaultdict[tuple[tuple[str, float], ...], list[Mapping[str, Any]]] = defaultdict(list)
    for trial in trials:
        if trial["score"] is not None:
            sets[tuple((n, v) for n, v in trial["params"].items() if n != name)].append(trial)
    return [
        sorted(group, key=lambda t: t["params"][name])
        for group in sets.values()
        if len({t["params"][name] for t in group}) > 1
    ]


def importance_panel(tried: Tried) -> Panel | None:
    """Shares of the scores' variation that parameters explain; None where that is not known."""
    shares = [(n, tried.importance[n]) for n in reversed(tried.names) if n in tried.importance]
    if not shares:
        return None
    figure = plot("share of the scores' variation, %")
    figure.add_trace(
        go.Bar(
            x=[100 * share for _, share in shares],
            y=[parameter_name(n) for n, _ in shares],
            orientation="h",
            marker={"color": [parameter_look(n).light for n, _ in shares]},
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    )
    figure.update_layout(bargap=0.35)
    figure.update_xaxes(rangemode="tozero")
    first = ", ".join(f"{parameter_name(n)} {share:.0%}" for n, share in reversed(shares[-3:]))
    return Panel(
        id="importance",
        title="What the score depends on",
        unit="importance of each parameter, fANOVA",
        alt=f"Importance of the searched parameters, the largest first: {first}.",
        figure=figure,
        note=f"From a forest of trees fitted to {plural(tried.scored, 'whole trial')}. It speaks of the region that "
        "was tried: a parameter that was hardly moved looks unimportant.",
        height=_height(len(shares)),
    )


def parallel_panel(tried: Tried) -> Panel:
    """Every trial as a line through its parameters, the better the darker."""
    figure = plot("multiple of the best point's value")
    rows = {name: -row for row, name in enumerate(tried.names)}
    ranked = sorted((t for t in tried.trials if t["score"] is not None), key=lambda t: t["score"])
    parts = [ranked[k * len(ranked) // 4 : (k + 1) * len(ranked) // 4] for k in range(4)]
    diverged = [t for t in tried.trials if t["state"] == "diverged"]
    early = [t for t in tried.trials if t["state"] == "pruned"]
    names = ["best quarter", "second quarter", "third quarter", "worst quarter"]
    kinds = [*zip(names, RANKS, parts, strict=True), ("ended early", EARLY, early), ("diverged", WRONG, diverged)]
    kinds = [kind for kind in kinds if kind[2]]
    for kind, look, trials in reversed(kinds):
        _paths(figure, tried, rows, trials, kind, look, 1.2 if kind != "best quarter" else 1.8)
    _paths(figure, tried, rows, [tried.best], "best", arm_look("rlrs"), 3.0)
    reach = _reach(tried)
    _multiples(figure, reach)
    labels = [f"{parameter_name(n)}" for n in rows]
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=labels, range=[-len(rows) + 0.5, 0.5])
    return Panel(
        id="parallel",
        title="Where the trials were",
        unit="parallel coordinates: a line is a trial",
        alt=f"Trials of the search as lines through {plural(len(rows), 'parameter')}, coloured by their score: "
        f"{', '.join(f'{len(trials)} {kind}' for kind, _, trials in kinds)}.",
        figure=figure,
        legend=[("best", arm_look("rlrs")), *((kind, look) for kind, look, _ in kinds)],
        height=_height(len(rows)),
        note="Where the lines of the best quarter stay together, a parameter is settled; where they spread, it hardly "
        "matters, or was not searched well.",
    )


def _paths(
    figure: go.Figure,
    tried: Tried,
    rows: Mapping[str, int],
    trials: Sequence[Mapping[str, Any]],
    kind: str,
    look: Look,
    width: float,
) -> None:
    """All trials of a kind as one line with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    hover: list[str] = []
    for trial in trials:
        x += [*(tried.multiple(trial, name) for name in rows), None]
        y += [*rows.values(), None]
        hover += [*(_hover(trial, name) for name in rows), ""]
    figure.add_trace(
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            name=kind,
            text=hover,
            hovertemplate=f"{kind}, %{{text}}<extra></extra>",
            line={"color": look.light, "width": width, "dash": look.dash},
        )
    )


def _hover(trial: Mapping[str, Any], name: str) -> str:
    score = trial["state"] if trial["score"] is None else f"{trial['score']:.3f} nats"
    text = f"trial {trial['number']}: {score}, {parameter_name(name)} {trial['params'][name]:.3g}"
    return html.escape(text)


def _reach(tried: Tried) -> tuple[float, float]:
    """Smallest and largest multiple in a frame that all parameters share."""
    every = [m for t in tried.trials for n in tried.names if (m := tried.multiple(t, n)) > 0]
    return max(min(every), 1 / REACH), min(max(every), REACH)


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
