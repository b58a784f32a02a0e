"""What the report's figures are made of: plotly lines and markers only, on transparent ground.

Every figure is built in light colours; the page's script swaps them for their dark twins (`palette.dark_twins`).
Titles, legends and notes stand in the page around the plot, where they wrap and scale with the text.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from rlrs.records import Trial
from rlrs.report.palette import GRID, INK, MUTED, Look
from rlrs.report.wording import Wording

FONT = (
    'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Hiragino Sans", "Noto Sans JP", '
    '"Noto Sans CJK JP", "Yu Gothic UI", Meiryo, sans-serif'
)
_SYMBOLS = {"diverged": "x", "pruned": "square-open", "failed": "line-ns-open"}


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
        source: files and places that the figure was made from.
        logs: axes that can be switched between a linear and a logarithmic scale.
    """

    id: str
    title: str
    unit: str
    alt: str
    figure: go.Figure
    legend: list[tuple[str, Look]] = field(default_factory=list)
    note: str = ""
    height: int | None = None
    source: str = ""
    logs: tuple[Literal["x", "y"], ...] = ()


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
    source: str | None = None,
) -> None:
    """A line; None in `y` is a gap, `hover` None leaves it silent, and `source` names the file for its table."""
    figure.add_trace(
        go.Scatter(
            x=list(x),
            y=list(y),
            mode="lines",
            name=name,
            meta=source,
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
    hover: str | Sequence[str] = "%{y:.3f}",
    opacity: float = 1.0,
    style: Mapping[str, Any] | None = None,
    source: str | None = None,
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
            meta=source,
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
    words: Wording,
    *,
    style: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> None:
    """One marker per trial, as the note `figure.kinds` says; those without a score, or above `top`, stand there."""
    y, symbols, hover = [], [], []
    for trial in trials:
        score, state = trial.score if trial.measured else None, ended(trial)
        y.append(top if score is None else min(score, top))
        symbols.append(_SYMBOLS.get(state, "x") if score is None else "triangle-up" if score > top else "circle")
        said = words("figure.trial", name=name, number=trial.number, outcome=outcome(trial, words))
        hover.append(html.escape(words("figure.moved", trial=said, move=words.recorded(trial.move))))
    style = {"symbol": symbols, **(style or {})}
    markers(figure, x, y, name, look, hover=hover, opacity=0.6, style=style, source=source)


def ended(trial: Trial) -> str:
    """How a trial's run ended: `finished`, `diverged`, `pruned` or `failed`."""
    return "failed" if trial.result is None else trial.result.status


def outcome(trial: Trial, words: Wording) -> str:
    """A trial's measured score, or how its run ended, in words."""
    return words("figure.score", score=f"{trial.score:.3f}") if trial.measured else words(f"ended.{ended(trial)}")


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
