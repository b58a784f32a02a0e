"""The report's figures: plotly lines and markers only, on transparent ground, with their description in words.

Every figure is built in light colours; the page's script swaps them for their dark twins (`palette.dark_twins`).
Titles, legends and notes stand in the page around the plot, where they wrap and scale with the text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from rlrs.ratios import BASE, Ratio
from rlrs.report.palette import (
    GRID,
    INK,
    MUTED,
    Look,
    arm_look,
    arm_name,
    component_look,
    component_name,
)
from rlrs.report.results import LossCurve
from rlrs.report.text import TIMES
from rlrs.schedules import BaseSchedule, relative_factor

SAMPLES = 240  # points per schedule line; enough for a smooth cosine, chosen here
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One figure of the page.

    Args:
        id: of the page's element.
        title: what is drawn.
        unit: of the vertical axis.
        alt: what the figure shows, in words, for those who do not see it.
        figure: the plot.
        legend: name and look of each kind of line.
        note: how to read it, one sentence.
    """

    id: str
    title: str
    unit: str
    alt: str
    figure: go.Figure
    legend: list[tuple[str, Look]] = field(default_factory=list)
    note: str = ""


def schedule_panels(ratios: Mapping[str, Ratio], schedule: BaseSchedule, lr: float | None) -> list[Panel]:
    """Learning rate of each component over training, absolute and relative to the base rate.

    Args:
        ratios: component -> ratio; the base rate is drawn beside them.
        schedule: the base schedule.
        lr: base peak rate `eta`; if None the rates are drawn in units of it.
    """
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, SAMPLES).round().astype(int))
    progress = (100 * (steps + 1) / schedule.total_steps).tolist()
    base = relative_factor(schedule, BASE.knots, steps)
    rate, relative = _plot("% of training"), _plot("% of training")
    legend = [("base rate", MUTED)]
    _line(rate, progress, _positive(base * (lr or 1.0)), "base rate", MUTED, width=1.5)
    _line(relative, progress, [1.0] * len(progress), "base rate", MUTED, width=1.5)
    for component, ratio in ratios.items():
        factor = relative_factor(schedule, ratio.knots, steps)
        name, look = component_name(component), component_look(component)
        share = np.divide(factor, base, out=np.full_like(factor, np.nan), where=base > 0)
        _line(rate, progress, _positive(factor * (lr or 1.0)), name, look)
        _line(relative, progress, _positive(share), name, look, hover=f"%{{y:.3g}} {TIMES} base")
        legend.append((name, look))
    for figure in (rate, relative):
        figure.update_xaxes(range=[0, 100], tickvals=[0, 25, 50, 75, 100])
        figure.update_yaxes(type="log")
    ends = [(r.start, schedule.alpha * r.end) for r in (BASE, *ratios.values())]
    span = _log_span([(lr or 1.0) * level for pair in ends for level in pair])
    rate.update_yaxes(range=span, tickformat="~g", dtick="D2" if span[1] - span[0] < 2.5 else 1)
    relative.update_yaxes(range=_log_span([1.0, *(level for r in ratios.values() for _, level in r.knots)]))
    ticks = [m * 10**e for e in range(-3, 4) for m in (1, 2, 5)]
    relative.update_yaxes(tickvals=ticks, ticktext=[f"{t:g}{TIMES}" for t in ticks])
    words = "; ".join(f"{component_name(c)} from {r.start:.3g} to {r.end:.3g}" for c, r in ratios.items())
    unit = "log scale" if lr else "in units of the base peak rate, log scale"
    return [
        Panel(
            id="rates",
            title="Learning rate",
            unit=unit,
            alt=f"Learning rate of each component over training. Times the base rate: {words}.",
            figure=rate,
            legend=legend,
        ),
        Panel(
            id="relative-rates",
            title="Relative to the base rate",
            unit=f"1{TIMES} is the base rate, log scale",
            alt=f"Each component's rate over the base rate, from start to end of training: {words}.",
            figure=relative,
            legend=legend,
        ),
    ]


def loss_panel(curves: Sequence[LossCurve], arms: Sequence[str]) -> Panel:
    """Validation loss against steps for the full-length runs: thin lines per seed, thick mean."""
    figure = _plot("steps")
    figure.update_xaxes(tickformat=",d")
    full = [curve for curve in curves if curve.horizon == 1.0 and curve.steps]
    means = {arm: _mean([c for c in full if c.arm == arm]) for arm in arms}
    for curve in full:
        look = arm_look(curve.arm)
        _line(figure, curve.steps, curve.losses, "", Look(look.light, look.dark), width=1, opacity=0.4, hover=None)
    for arm, (steps, losses) in means.items():
        if steps:
            name = f"{arm_name(arm)}, mean"
            _line(figure, steps, losses, name, arm_look(arm), width=2.5, hover="%{y:.3f} nats at step %{x:,}")
    note = "Thin lines are single seeds, thick lines their mean."
    early = [_early(c) for c in full]
    if early:
        low, high = min(min(c.losses) for c in full), max(early)
        pad = 0.05 * (high - low) or 0.05
        figure.update_yaxes(range=[low - pad, high + pad], tickformat=".2f")
        note += " The first fifth of training may lie above the frame; double-click for all of it."
    ends = [f"{arm_name(arm)} {losses[-1]:.3f}" for arm, (_, losses) in means.items() if losses]
    return Panel(
        id="losses",
        title="Validation loss during training",
        unit="nats per token",
        alt=f"Validation loss falls with the steps; mean over seeds at the end: {', '.join(ends) or 'none'}.",
        figure=figure,
        legend=[(arm_name(arm), arm_look(arm)) for arm, (steps, _) in means.items() if steps],
        note=note,
    )


def horizon_panel(comparison: Mapping[str, Any]) -> Panel:
    """Final loss of the rlrs arm against the length of its run, and where it meets the controls' final losses."""
    figure = _plot("steps of the whole run")
    runs = [r for r in comparison["runs"] if r["arm"] == "rlrs" and r["status"] == "finished"]
    lengths = sorted({r["steps"] for r in runs})
    means = [float(np.mean([r["valid_loss"] for r in runs if r["steps"] == n])) for n in lengths]
    reach = [0.94 * (lengths[0] if lengths else comparison["steps"]), 1.02 * comparison["steps"]]
    rlrs = arm_look("rlrs")
    legend = [(arm_name("rlrs"), rlrs)]
    crossings = []
    for control, speed_up in comparison["speed_up"].items():
        loss = comparison["losses"][control]["mean"]
        if loss is None or not math.isfinite(loss):  # it diverged
            continue
        look, name = arm_look(control), arm_name(control)
        legend.append((f"{name}, full length", look))
        _line(figure, reach, [loss, loss], f"{name}, full length", look, width=1.5, hover="%{y:.3f} nats")
        if speed_up["bound"] == "none":
            needed = float(np.mean(speed_up["steps_needed"]))
            crossings.append(f"the {name} control's after {needed:,.0f} steps")
            style = {"symbol": "circle-open", "size": 13, "line_width": 2.5}
            hover = f"meets {html.escape(name)} after {needed:,.0f} steps"
            _markers(figure, [needed], [loss], name, look, hover=hover, style=style)
    _markers(figure, [r["steps"] for r in runs], [r["valid_loss"] for r in runs], "seed", rlrs, opacity=0.45)
    _line(figure, lengths, means, arm_name("rlrs"), rlrs, width=2.5, hover="%{y:.3f} nats after %{x:,} steps")
    figure.update_xaxes(range=reach, tickformat=",d")
    figure.update_yaxes(tickformat=".2f")
    met = f"It reaches {' and '.join(crossings)}." if crossings else "It meets none within these lengths."
    return Panel(
        id="horizons",
        title="Final loss of shorter runs",
        unit="nats per token",
        alt=f"Final loss of {arm_name('rlrs')} against the length of the run. {met}",
        figure=figure,
        legend=legend,
        note="Each dot is one run with its own complete schedule. Rings mark where relative schedules "
        "reach a control's final loss; what lies right of a ring is saved.",
    )


def search_panel(search: Mapping[str, Mapping[str, Any]]) -> Panel:
    """Score of each trial on the proxy in order, and the best so far, per arm."""
    figure = _plot("trial")
    # Scores of shorter or narrower runs, and on other seeds, do not compare with the others.
    whole = {arm: [t for t in part["trials"] if t.get("whole", True)] for arm, part in search.items()}
    scores = {arm: [t["score"] for t in trials] for arm, trials in whole.items()}
    top = _ceiling([s for values in scores.values() for s in values if s is not None])
    for arm, trials in whole.items():
        numbers = [trial["number"] + 1 for trial in trials]
        _trials(figure, numbers, trials, arm, top)
        best = np.fmin.accumulate([math.nan if s is None else s for s in scores[arm]]).tolist()
        _line(figure, numbers, _positive(best), f"{arm_name(arm)}, best so far", arm_look(arm), shape="hv")
    _frame(figure, [s for values in scores.values() for s in values if s is not None], top)
    figure.update_xaxes(range=[0, 1.03 * max((len(part["trials"]) for part in search.values()), default=1)])
    counts = ", ".join(
        f"{arm_name(arm)} {len(part['trials'])} trials, best {_plain(part['best']['score'])}"
        for arm, part in search.items()
    )
    return Panel(
        id="search",
        title="Search on the proxy",
        unit="training loss at the end of a trial, nats per token",
        alt=f"Score of every trial in order, per arm: {counts}.",
        figure=figure,
        legend=[(arm_name(arm), arm_look(arm)) for arm in search],
        note="Dots are whole runs on the search's seed, lines the best so far; a triangle lies above the frame, a "
        "cross diverged.",
    )


def transfer_panel(transfer: Mapping[str, Mapping[str, Any]]) -> Panel:
    """Score on the target against the base rate, per arm."""
    figure = _plot("base peak rate")
    every = [t["score"] for part in transfer.values() for t in part["trials"] if t["score"] is not None]
    top = _ceiling(every)
    tried: set[float] = set()
    for arm, part in transfer.items():
        trials = sorted(part["trials"], key=lambda t: t["params"]["lr"])
        rates = [t["params"]["lr"] for t in trials]
        tried.update(rates)
        scores = [t["score"] if t["score"] is None else min(t["score"], top) for t in trials]
        _line(figure, rates, scores, arm_name(arm), arm_look(arm), hover=None)
        _trials(figure, rates, trials, arm, top)
        if part["best"]["score"] is not None:
            style = {"symbol": "circle-open", "size": 14, "line_width": 2}
            hover = f"{html.escape(arm_name(arm))}: best at {part['best']['params']['lr']:.3g}"
            best = [part["best"]["params"]["lr"]], [part["best"]["score"]]
            _markers(figure, *best, arm_name(arm), arm_look(arm), hover=hover, style=style)
    _frame(figure, every, top)
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


def _plot(x_title: str) -> go.Figure:
    axis: dict[str, Any] = {
        "gridcolor": GRID.light,
        "linecolor": GRID.light,
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": MUTED.light, "size": 12},
    }
    figure = go.Figure()
    figure.update_layout(
        template=None,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 12, "color": INK.light},
        margin={"l": 8, "r": 20, "t": 8, "b": 8},
        showlegend=False,
        hovermode="closest",
        hoverlabel={"font": {"family": FONT, "size": 12}},
        xaxis={**axis, "title": {"text": x_title, "font": {"color": MUTED.light, "size": 12}, "standoff": 8}},
        yaxis=axis,
    )
    return figure


def _line(
    figure: go.Figure,
    x: Sequence[float],
    y: Sequence[float | None],
    name: str,
    look: Look,
    *,
    width: float = 2.0,
    opacity: float = 1.0,
    hover: str | None = "%{y:.3g}",
    shape: str = "linear",
) -> None:
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            mode="lines",
            name=name,
            opacity=opacity,
            line={"color": look.light, "dash": look.dash, "width": width, "shape": shape},
            hoverinfo="skip" if hover is None else None,
            hovertemplate=None if hover is None else f"{html.escape(name)}: {hover}<extra></extra>",
        )
    )


def _markers(
    figure: go.Figure,
    x: Sequence[float],
    y: Sequence[float],
    name: str,
    look: Look,
    *,
    hover: str | Sequence[str] = "%{y:.3f} nats",
    opacity: float = 1.0,
    style: Mapping[str, Any] | None = None,
) -> None:
    marker = {"color": look.light, "size": 7, **(style or {})}
    marker["line"] = {"color": look.light, "width": marker.pop("line_width", 0)}
    one = isinstance(hover, str)
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            mode="markers",
            name=name,
            opacity=opacity,
            marker=marker,
            hovertext=None if one else list(hover),
            hovertemplate=(hover if one else "%{hovertext}") + "<extra></extra>",
        )
    )


def _trials(figure: go.Figure, x: Sequence[float], trials: Sequence[Mapping[str, Any]], arm: str, top: float) -> None:
    """One marker per trial: a dot, a triangle at `top` where the score lies above it, a cross for a divergence."""
    y, symbols, hover = [], [], []
    for trial in trials:
        score = trial["score"]
        y.append(top if score is None else min(score, top))
        symbols.append("x" if score is None else "triangle-up" if score > top else "circle")
        result = "diverged" if score is None else f"{score:.3f} nats"
        hover.append(html.escape(f"{arm_name(arm)}, trial {trial['number']}: {result}; {trial.get('move', '')}"))
    _markers(figure, x, y, arm_name(arm), arm_look(arm), hover=hover, opacity=0.6, style={"symbol": symbols})


def _frame(figure: go.Figure, scores: Sequence[float], top: float) -> None:
    low = min(scores, default=0.0)
    pad = 0.06 * (top - low) or 0.05
    figure.update_yaxes(range=[low - pad, top + pad], tickformat=".2f")


def _ceiling(scores: Sequence[float]) -> float:
    """Where a figure of scores ends: far misses should not flatten the part that decides.

    Three times the median's distance from the best, above the best; chosen here, not studied.
    """
    if not scores:
        return 1.0
    best, median = min(scores), float(np.median(scores))
    return min(max(scores), best + 3 * max(median - best, 0.01))


def _early(curve: LossCurve) -> float:
    """The loss after a fifth of the run, which the frame of the loss curves must hold."""
    return next(loss for step, loss in zip(curve.steps, curve.losses, strict=True) if step >= 0.2 * curve.steps[-1])


def _mean(curves: Sequence[LossCurve]) -> tuple[list[int], list[float]]:
    """Mean loss over seeds at the steps that all of them have."""
    tables = [dict(zip(c.steps, c.losses, strict=True)) for c in curves]
    if not tables:
        return [], []
    steps = sorted(set(tables[0]).intersection(*tables[1:]))
    return steps, [float(np.mean([table[step] for table in tables])) for step in steps]


def _log_span(levels: Sequence[float]) -> list[float]:
    """Range of a log axis around what the schedules start and end at, in powers of ten.

    Warm-up and rates that come from or go to zero leave it at the bottom; three decades at most, chosen here.
    """
    high = max(levels)
    low = max(min(level for level in levels if level > 0) / (1 if min(levels) > 0 else 5), high / 1000)
    pad = 0.06 * math.log10(high / low) + 0.06
    return [math.log10(low) - pad, math.log10(high) + pad]


def _positive(values: Any) -> list[float | None]:
    """Values for a log axis or a line with gaps: what is not above zero, or not finite, is left out."""
    return [float(v) if math.isfinite(v) and v > 0 else None for v in values]


def _plain(score: float | None) -> str:
    return "none" if score is None else f"{score:.3f}"
