"""The page of a study's ablations: one file that opens offline, made from ablations.json alone."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrs.comparison import ablation_sentence
from rlrs.comparison.ablating import OF_RATIOS
from rlrs.files import write_atomic
from rlrs.records import ABLATIONS_FILE, Ablation, AblationRow, RecordError, read_ablations
from rlrs.report import text
from rlrs.report.curves import ReportError
from rlrs.report.drawing import Panel, ceiling, frame, line, markers, plot
from rlrs.report.palette import INK, MUTED, Look, arm_look, parameter_look
from rlrs.report.rendering import render
from rlrs.report.wording import Wording
from rlrs.words import Language


def write_ablations_page(study_folder: str | Path, language: Language = "en", path: str | Path | None = None) -> Path:
    """Write `ablations.html` from a study's `ablations.json`: pictures and rows of each.

    Args:
        study_folder: the run directory.
        language: `en` or `ja`.
        path: of the page; `ablations.html`, or `ablations.ja.html`, in the run directory if None.

    Returns:
        Path of the page.

    Raises:
        ReportError: there is no ablations.json, or it cannot be used.
    """
    folder, words = Path(study_folder), Wording(language)
    source = folder / ABLATIONS_FILE
    try:
        found = read_ablations(source)
    except FileNotFoundError:
        raise ReportError(f"{source}: there is none yet; run rlrs ablate KIND {folder}") from None
    except RecordError as error:
        raise ReportError(str(error)) from None
    page = render(
        "ablations.html.j2",
        words,
        title=words("ablation.title", study=found.study),
        parts=[_part(one, number, words) for number, one in enumerate(found.ablations)],
    )
    path = folder / ("ablations.html" if language == "en" else f"ablations.{language}.html") if path is None else path
    write_atomic(path, page)
    return Path(path)


def _part(ablation: Ablation, number: int, words: Wording) -> dict[str, Any]:
    """A section of the page: what was changed, what that says, pictures, rows."""
    small = ablation.kind == "u-plot"
    panels = _u_panels(ablation, number, words) if small else _panels(ablation, number, words)
    environment = ablation.environment
    return {
        "kind": ablation.kind,
        "title": words(f"ablation.kind.{ablation.kind}", arm=words.way(ablation.arm)),
        "model": words(f"ablation.of_model.{ablation.model}"),
        "text": words(f"ablation.text.{ablation.kind}", arm=words.way(ablation.arm)),
        "sentence": ablation_sentence(ablation, words),
        "panels": panels,
        "small": small,
        "rows": [_cells(row, words) for row in ablation.rows],
        "made": words(
            "ablation.made",
            seeds=words.list([str(seed) for seed in ablation.seeds]),
            hash=ablation.config_hash,
            version=environment.get("rlrs") or text.NONE,
            commit=str(environment.get("commit") or text.NONE)[:12],
        ),
    }


def _cells(row: AblationRow, words: Wording) -> list[str]:
    difference, p = row.difference, row.p_value
    against = text.NONE if row.against is None else f"{_series(row.against[0], words)}, {_place(row.against[1], words)}"
    return [
        _series(row.series, words),
        _place(row.at, words),
        text.nats(row.mean),
        against,
        text.difference(None if difference is None else difference.mean, 3),
        text.NONE
        if difference is None
        else words.span(text.difference(difference.low, 3), text.difference(difference.high, 3)),
        text.NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}",
        words("unstable.of", n=len(row.unstable.seeds), runs=row.unstable.runs),
    ]


def _series(name: str, words: Wording) -> str:
    """An arm, a searched parameter or a component, as people read it."""
    if words.get(f"arm.name.{name}") is not None:
        return words.arm(name)
    return words.parameter(name) if "." in name else words.component(name)


def _place(at: str, words: Wording) -> str:
    return words.get(f"ablation.at.{at.replace(' ', '_')}") or words.get(f"shape.{at}") or at.replace("x ", text.TIMES)


def _look(name: str, words: Wording) -> Look:
    return (
        arm_look(name)
        if words.get(f"arm.name.{name}") is not None
        else parameter_look(f"{name}." if "." not in name else name)
    )


def _losses(rows: Sequence[AblationRow]) -> list[float]:
    return [loss for row in rows for loss in row.losses if loss is not None]


def _u_panels(ablation: Ablation, number: int, words: Wording) -> list[Panel]:
    """One small figure per parameter, all with one vertical axis."""
    whole = ablation.rows[0]
    top = ceiling(_losses(ablation.rows))
    parameters = dict.fromkeys(row.series for row in ablation.rows[1:])
    return [
        _curves(
            ablation,
            f"ablation-{number}-{place}",
            {parameter: [whole, *(row for row in ablation.rows if row.series == parameter)]},
            top,
            words,
            title=words.parameter(parameter),
        )
        for place, parameter in enumerate(parameters)
    ]


def _panels(ablation: Ablation, number: int, words: Wording) -> list[Panel]:
    """Losses over what was changed, where that is a number, and the paired differences."""
    mine = [row for row in ablation.rows if row.difference is not None]
    found = [_gaps(ablation, f"ablation-{number}-gaps", mine, words)] if mine else []
    if all(row.x is not None for row in ablation.rows):
        series: dict[str, list[AblationRow]] = {}
        for row in ablation.rows:
            series.setdefault(row.series, []).append(row)
        title = words(f"ablation.kind.{ablation.kind}", arm=words.way(ablation.arm))
        top = ceiling(_losses(ablation.rows))
        found.insert(0, _curves(ablation, f"ablation-{number}-losses", series, top, words, title=title))
    return found


def _curves(
    ablation: Ablation,
    name: str,
    series: dict[str, list[AblationRow]],
    top: float,
    words: Wording,
    *,
    title: str,
) -> Panel:
    """Mean loss over a number, a line for each series and a dot for each seed; what is above the frame at its top."""
    figure = plot(words(f"ablation.x.{ablation.kind}"))
    ticks: dict[float, str] = {}
    said = []
    for key, rows in series.items():
        ordered = sorted(rows, key=lambda row: row.x or 0.0)
        look, label = _look(key, words), _series(key, words)
        x = [row.x for row in ordered if row.x is not None]
        y = [None if row.mean is None else min(row.mean, top) for row in ordered]
        place = f"{ABLATIONS_FILE} {ablation.kind}, {ablation.model}"
        line(figure, x, y, label, look, hover=words("figure.nats"), source=place)
        for row in ordered:
            assert row.x is not None
            ticks[row.x] = _place(row.at, words)
            values = [top if loss is None else min(loss, top) for loss in row.losses]
            symbols = ["x" if loss is None else "triangle-up" if loss > top else "circle" for loss in row.losses]
            hover = [html.escape(f"{label}, {_place(row.at, words)}: {text.nats(loss)}") for loss in row.losses]
            markers(
                *(figure, [row.x] * len(values), values, label, look),
                hover=hover,
                opacity=0.6,
                style={"symbol": symbols},
                source=place,
            )
        best = min((row for row in ordered if row.mean is not None), key=lambda row: row.mean or math.inf, default=None)
        if best is not None:
            said.append(words("ablation.lowest", series=label, at=_place(best.at, words), loss=text.nats(best.mean)))
    frame(figure, [min(loss, top) for loss in _losses(ablation.rows)], top)
    shown = sorted(ticks) if len(ticks) < 6 else sorted(ticks)[::2]
    figure.update_xaxes(type="log", tickvals=shown, ticktext=[ticks[x] for x in shown], tickangle=0)
    many = len(series) > 1
    return Panel(
        id=name,
        title=title,
        unit=words("figure.unit"),
        alt=words("list.parts").join(said) or words("figure.none"),
        figure=figure,
        legend=[(_series(key, words), _look(key, words)) for key in series] if many else [],
        note=words("ablation.note") if many else "",
        source=f"{ABLATIONS_FILE} {ablation.kind}, {ablation.model}",
        logs=("x", "y") if many else (),
    )


def _gaps(ablation: Ablation, name: str, rows: Sequence[AblationRow], words: Wording) -> Panel:
    """Paired differences with their intervals, row by row."""
    figure = plot(words("ablation.x.gap"))
    said = []
    pair, ticks = _one_pair(rows, words), []
    for number, row in enumerate(rows):
        assert row.difference is not None
        difference, look, label = row.difference, _look(row.series, words), _label(row, words)
        ticks.append(_place(row.at, words) if pair else label)
        place = f"{ABLATIONS_FILE} {ablation.kind}, {ablation.model}"
        line(figure, [difference.low, difference.high], [-number] * 2, label, look, hover="%{x:+.3f}", source=place)
        value = text.difference(difference.mean, 3)
        markers(figure, [difference.mean], [-number], label, look, hover=value, source=place, style={"size": 9})
        said.append(f"{label} {value}")
    line(
        figure, [0, 0], [-len(rows) + 0.5, 0.5], words("ablation.nothing"), MUTED if rows else INK, width=1, hover=None
    )
    figure.update_yaxes(
        tickvals=[-n for n in range(len(rows))],
        ticktext=[_on_lines(tick) for tick in ticks],
        range=[-len(rows) + 0.5, 0.5],
    )
    ends = [0.0, *(end for row in rows if row.difference for end in (row.difference.low, row.difference.high))]
    pad = 0.05 * (max(ends) - min(ends))
    figure.update_xaxes(tickformat="+.2f", range=[min(ends) - pad, max(ends) + pad], tickangle=0, nticks=4)
    return Panel(
        id=name,
        title=words("ablation.gaps_of", pair=pair) if pair else words("ablation.gaps"),
        unit=words("ablation.gap_unit"),
        alt=words("list.parts").join(said),
        figure=figure,
        note=words("ablation.gap_note"),
        height=max(220, 80 + (26 if pair or ablation.kind in OF_RATIOS else 44) * len(rows)),
        source=f"{ABLATIONS_FILE} {ablation.kind}, {ablation.model}",
    )


def _one_pair(rows: Sequence[AblationRow], words: Wording) -> str:
    """Which two arms all rows compare; empty where they are changes of one thing, or compare several."""
    pairs = {(row.series, row.against[0]) for row in rows if row.against is not None}
    if len(pairs) != 1 or words.get(f"arm.name.{rows[0].series}") is None:
        return ""
    ((mine, other),) = pairs
    return words("ablation.pair", series=_series(mine, words), other=_series(other, words))


def _on_lines(label: str, width: int = 26) -> str:
    """A tick's label, broken at blanks and commas so that it leaves room for the figure."""
    lines = [""]
    for part in re.findall(r"[^ \u3001\uff08]+[ \u3001]?|\uff08", label):
        wide = sum(2 if ord(sign) > 0x2E80 else 1 for sign in lines[-1] + part)
        lines[-1:] = [lines[-1] + part] if wide <= width or not lines[-1] else [lines[-1], part]
    return "<br>".join(html.escape(line.strip()) for line in lines)


def _label(row: AblationRow, words: Wording) -> str:
    """A row's name, with what it is paired with where it is an arm's."""
    series = _series(row.series, words)
    assert row.against is not None
    if words.get(f"arm.name.{row.series}") is None:
        return series
    return words("ablation.row", series=series, other=_series(row.against[0], words), at=_place(row.at, words))
