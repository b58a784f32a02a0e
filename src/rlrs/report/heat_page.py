"""The page of a run's statistics: how every layer's tensors learn, over depth and time."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlrs.discovery import FIGURES, RunStatistics
from rlrs.files import write_atomic
from rlrs.report.drawing import Panel, markers, plot
from rlrs.report.palette import RANKS
from rlrs.report.rendering import render
from rlrs.report.wording import Wording
from rlrs.words import Language

Array = NDArray[np.float64]

_COLUMNS = 40
"""Moments that a run is drawn at, at most: more are narrower than their squares. Chosen here."""
_EXPERT_ROWS = 60
"""Rows beyond which the experts of a layer are one. Chosen here."""


def write_heat_page(statistics: RunStatistics, path: str | Path, language: Language = "en", title: str = "") -> Path:
    """Write a page of heat maps: gradient, update over weights, signal over noise and second moment.

    A row is a component in a layer, or one of its experts, from the embedding up; a square is one moment.

    Args:
        statistics: of a run.
        path: of the page; replaced in one step.
        language: `en` or `ja`.
        title: of the page; a general one if empty.

    Returns:
        Path of the page.
    """
    words = Wording(language)
    drawn, labels = _by_layer(statistics, words)
    panels = [_panel(name, drawn, labels, words) for name in FIGURES if np.isfinite(FIGURES[name](drawn)).any()]
    page = render(
        "heat.html.j2",
        words,
        title=title or words("heat.title"),
        lead=words("heat.lead", first=int(statistics.steps[0]), last=int(statistics.steps[-1])),
        panels=panels,
        tables=_tables(statistics, words),
    )
    write_atomic(path, page)
    return Path(path)


def _by_layer(statistics: RunStatistics, words: Wording) -> tuple[RunStatistics, list[str]]:
    """The statistics with a row for each component in each layer, from the lowest up, and the rows' names."""

    def key(index: int, experts: bool) -> tuple[int, str, int]:
        row = statistics.rows[index]
        below = row.component.partition("/")[0] in ("embedding", "position")
        layer = row.layer if row.layer >= 0 else -1 if below else row.layers
        return layer, row.component, row.expert if experts else -1

    rows = range(len(statistics.rows))
    experts = len({key(i, True) for i in rows}) <= _EXPERT_ROWS
    together: dict[tuple[int, str, int], list[int]] = {}
    for index in sorted(rows, key=lambda i: key(i, experts)):
        together.setdefault(key(index, experts), []).append(index)
    sums = {n: np.stack([v[:, own].sum(1) for own in together.values()], 1) for n, v in statistics.sums.items()}
    merged, labels = [], []
    for (_, component, expert), own in together.items():
        row = statistics.rows[own[0]]
        numbers = sum(statistics.rows[i].numbers for i in own)
        merged.append(replace(row, tensor=component, expert=expert, numbers=numbers))
        name = words.component(component)
        label = name if row.layer < 0 else words("heat.row", component=name, layer=row.layer)
        labels.append(label if expert < 0 else words("heat.expert", row=label, expert=expert))
    return replace(statistics, rows=merged, sums=sums, curvatures=np.zeros((0, len(merged)))), labels


def _panel(name: str, statistics: RunStatistics, labels: Sequence[str], words: Wording) -> Panel:
    """One figure's heat map, in quarters of its values."""
    values, steps = _columns(FIGURES[name](statistics), statistics.steps)
    finite = values[np.isfinite(values)]
    edges = np.quantile(finite, (0.25, 0.5, 0.75))
    levels = np.searchsorted(edges, values, side="right")  # 0, the least, to 3
    figure = plot(words("heat.x"))
    legend = []
    for level in (3, 2, 1, 0):
        look, part = RANKS[3 - level], values[np.isfinite(values) & (levels == level)]
        if not len(part):
            continue
        label = words.span(f"{part.min():.2g}", f"{part.max():.2g}")
        legend.append((label, look))
        at, rows = (found.tolist() for found in np.nonzero(np.isfinite(values) & (levels == level)))
        hover = [
            html.escape(words("heat.hover", row=labels[row], step=steps[t], value=f"{values[t, row]:.3g}"))
            for t, row in zip(at, rows, strict=True)
        ]
        places = [float(steps[t]) for t in at], [float(row) for row in rows]
        markers(figure, *places, label, look, hover=hover, style={"symbol": "square", "size": 13})
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=list(labels), range=[-0.7, len(labels) - 0.3])
    order = np.nanmedian(values, axis=0).argsort().tolist()
    least, largest = order[0], order[-1]
    return Panel(
        id=f"heat-{name.replace('_', '-')}",
        title=words(f"heat.figure.{name}"),
        unit=words("heat.unit"),
        alt=words("heat.alt", figure=words(f"heat.figure.{name}"), largest=labels[largest], least=labels[least]),
        figure=figure,
        legend=legend,
        note=words(f"heat.note.{name}"),
        height=max(220, 90 + 18 * len(labels)),
    )


def _columns(values: Array, steps: NDArray[np.int64]) -> tuple[Array, list[int]]:
    """Medians of neighbouring observations, `_COLUMNS` at most, and the last step of each."""
    parts = np.array_split(np.arange(len(steps)), min(_COLUMNS, len(steps)))
    columns = []
    for part in parts:
        known = np.where(np.isfinite(values[part]), values[part], np.nan)
        there = np.isfinite(known).any(0)
        column = np.full(known.shape[1], np.nan)
        column[there] = np.nanmedian(known[:, there], axis=0)
        columns.append(column)
    return np.stack(columns), [int(steps[part[-1]]) for part in parts]


def _tables(statistics: RunStatistics, words: Wording) -> list[str]:
    """How often the rows of each table had a gradient, in words."""
    seen = len(statistics.steps)
    return [
        words(
            "heat.table",
            table=name,
            rows=len(counts),
            never=f"{100 * float(np.mean(counts == 0)):.3g}",
            middle=f"{100 * float(np.median(counts)) / seen:.3g}",
        )
        for name, counts in statistics.row_counts.items()
    ]
