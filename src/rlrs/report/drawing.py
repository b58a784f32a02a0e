"""What the report's figures are made of: plotly lines and markers only, on transparent ground.

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

from rlrs.records import Trial
from rlrs.report.palette import GRID, INK, MUTED, Look

FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
KINDS = (
    "A triangle lies above the frame, a cross diverged, an empty square was ended early, a bar could not be trained."
)
"""What the markers of `draw_trials` that are no dots stand for."""
_SYMBOLS = {"diverged": "x", "pruned": "square-open", "failed": "line-ns-open"}
_STATES = {"pruned": "ended early", "failed": "could not be trained"}


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
        height: pixels; None for that of the page's other figures.
    """

    id: str
    title: str
    unit: str
    alt: str
    figure: go.Figure
    legend: list[tuple[str, Look]] = field(default_factory=list)
    note: str = ""
    height: int | None = None


def plot(x_title: str) -> go.Figure:
    """An empty plot in the report's style."""
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


def line(
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
    """A line; None in `y` is a gap, and `hover` None leaves it silent."""
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


def markers(
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
    """Markers, with one text for all or one for each; `style` is plotly's, its `line_width` that of the outline."""
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


def draw_trials(
    figure: go.Figure,
    x: Sequence[float],
    trials: Sequence[Trial],
    name: str,
    look: Look,
    top: float,
    *,
    style: Mapping[str, Any] | None = None,
) -> None:
    """One marker per trial, as `KINDS` says; those without a score, and those above `top`, stand there."""
    y, symbols, hover = [], [], []
    for trial in trials:
        score, state = trial.score if trial.measured else None, ended(trial)
        y.append(top if score is None else min(score, top))
        symbols.append(_SYMBOLS.get(state, "x") if score is None else "triangle-up" if score > top else "circle")
        hover.append(html.escape(f"{name}, trial {trial.number}: {outcome(trial)}; {trial.move}"))
    markers(figure, x, y, name, look, hover=hover, opacity=0.6, style={"symbol": symbols, **(style or {})})


def ended(trial: Trial) -> str:
    """How a trial's run ended: `finished`, `diverged`, `pruned` or `failed`."""
    return "failed" if trial.result is None else trial.result.status


def outcome(trial: Trial) -> str:
    """A trial's measured score, or how its run ended, in words."""
    state = ended(trial)
    return f"{trial.score:.3f} nats" if trial.measured else _STATES.get(state, state)


def frame(figure: go.Figure, scores: Sequence[float], top: float) -> None:
    """Let the vertical axis reach from the lowest score to `top`."""
    low = min(scores, default=0.0)
    pad = 0.06 * (top - low) or 0.05
    figure.update_yaxes(range=[low - pad, top + pad], tickformat=".2f")


def ceiling(scores: Sequence[float]) -> float:
    """Where a figure of scores ends: far misses should not flatten the part that decides.

    Three times the median's distance from the best, above the best; chosen here, not studied.
    """
    if not scores:
        return 1.0
    best, median = min(scores), float(np.median(scores))
    return min(max(scores), best + 3 * max(median - best, 0.01))


def positive(values: Any) -> list[float | None]:
    """Values for a log axis or a line with gaps: what is not above zero, or not finite, is left out."""
    return [float(v) if math.isfinite(v) and v > 0 else None for v in values]


def plain(panel: Panel) -> Any:
    """A figure as plotly.js takes it, with no more digits than a screen has: they are most of the page's own size."""
    return _rounded(panel.figure.to_plotly_json())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list | tuple) else value
