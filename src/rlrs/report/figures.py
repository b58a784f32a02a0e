"""Figures of the schedules and of the losses on the target."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlrs.ratios import BASE, Ratio
from rlrs.records import Comparison, SpeedUp
from rlrs.report.curves import LossCurve
from rlrs.report.drawing import Panel, line, markers, plot, positive
from rlrs.report.palette import MUTED, Look, arm_look, component_look
from rlrs.report.text import TIMES
from rlrs.report.wording import Wording
from rlrs.schedules import BaseSchedule, relative_factor
from rlrs.settings import Arm

SAMPLES = 240  # points per schedule line; enough for a smooth cosine, chosen here


def schedule_panels(
    ratios: Mapping[str, Ratio], schedule: BaseSchedule, lr: float | None, words: Wording, source: str = ""
) -> list[Panel]:
    """Learning rate of each component over training, absolute and relative to the base rate.

    Args:
        ratios: component -> ratio; the base rate is drawn beside them.
        schedule: the base schedule.
        lr: base peak rate `eta`; if None the rates are drawn in units of it.
        words: of the page's language.
        source: that the ratios are from.
    """
    steps = np.unique(np.linspace(0, schedule.total_steps - 1, SAMPLES).round().astype(int))
    progress = (100 * (steps + 1) / schedule.total_steps).tolist()
    base = relative_factor(schedule, BASE.knots, steps)
    rate, relative = plot(words("schedules.x")), plot(words("schedules.x"))
    base_rate = words("parameter.lr")
    legend = [(base_rate, MUTED)]
    line(rate, progress, positive(base * (lr or 1.0)), base_rate, MUTED, width=1.5, source=source)
    line(relative, progress, [1.0] * len(progress), base_rate, MUTED, width=1.5, source=source)
    for component, ratio in ratios.items():
        factor = relative_factor(schedule, ratio.knots, steps)
        name, look = words.component(component), component_look(component.partition("/")[0])
        share = np.divide(factor, base, out=np.full_like(factor, np.nan), where=base > 0)
        line(rate, progress, positive(factor * (lr or 1.0)), name, look, source=source)
        line(relative, progress, positive(share), name, look, hover=words("schedules.hover"), source=source)
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
    course = words("list.parts").join(
        words("schedules.course", component=words.component(c), start=f"{r.start:.3g}", end=f"{r.end:.3g}")
        for c, r in ratios.items()
    )
    course = course or words("schedules.none")
    return [
        Panel(
            id="rates",
            title=words("schedules.rate.title"),
            unit=words("schedules.rate.unit" if lr else "schedules.rate.unit_relative"),
            alt=words("schedules.rate.alt", course=course),
            figure=rate,
            legend=legend,
            source=source,
            logs=("y",),
        ),
        Panel(
            id="relative-rates",
            title=words("schedules.relative.title"),
            unit=words("schedules.relative.unit"),
            alt=words("schedules.relative.alt", course=course),
            figure=relative,
            legend=legend,
            source=source,
            logs=("y",),
        ),
    ]


def loss_panel(curves: Sequence[LossCurve], arms: Sequence[str], words: Wording) -> Panel:
    """Validation loss against steps for the full-length runs: thin lines per seed, thick mean."""
    figure = plot(words("losses.x"))
    figure.update_xaxes(tickformat=",d")
    full = [curve for curve in curves if curve.horizon == 1.0 and curve.steps]
    means = {arm: _mean([c for c in full if c.arm == arm]) for arm in arms}
    for curve in full:
        look = arm_look(curve.arm)
        name, thin = words("limits.run", arm=words.arm(curve.arm), seed=curve.seed), Look(look.light, look.dark)
        line(
            *(figure, curve.steps, curve.losses, name, thin),
            width=1,
            opacity=0.4,
            hover=None,
            source=f"runs/{curve.run}/metrics.jsonl",
        )
    for arm, (steps, losses) in means.items():
        if steps:
            name = words("losses.mean", arm=words.arm(arm))
            line(figure, steps, losses, name, arm_look(arm), width=2.5, hover=words("losses.hover"))
    note = words("losses.note")
    early = [_early(c) for c in full]
    if early:
        low, high = min(min(c.losses) for c in full), max(early)
        pad = 0.05 * (high - low) or 0.05
        figure.update_yaxes(range=[low - pad, high + pad], tickformat=".2f")
        note = words.sentences(note, words("losses.frame"))
    ends = [f"{words.arm(arm)} {losses[-1]:.3f}" for arm, (_, losses) in means.items() if losses]
    return Panel(
        id="losses",
        title=words("losses.title"),
        unit=words("figure.unit"),
        alt=words("losses.alt", ends=words.list(ends) or words("figure.none")),
        figure=figure,
        legend=[(words.arm(arm), arm_look(arm)) for arm, (steps, _) in means.items() if steps],
        note=note,
        source="runs/*/metrics.jsonl valid_loss",
        logs=("x", "y"),
    )


def horizon_panel(comparison: Comparison, arm: Arm, saved: Mapping[Arm, SpeedUp], words: Wording) -> Panel:
    """Final loss of an arm against the length of its run, and where it meets the controls' final losses.

    Args:
        comparison: of the study.
        arm: whose savings are shown.
        saved: control -> steps that it saves.
        words: of the page's language.
    """
    figure = plot(words("horizons.x"))
    runs = [r for r in comparison.runs if r.arm == arm and r.valid_loss is not None]
    lengths = sorted({r.steps for r in runs})
    losses = [(r.steps, r.valid_loss) for r in runs if r.valid_loss is not None]
    means = [float(np.mean([loss for steps, loss in losses if steps == n])) for n in lengths]
    reach = [0.94 * (lengths[0] if lengths else comparison.steps), 1.02 * comparison.steps]
    own = arm_look(arm)
    legend = [(words.arm(arm), own)]
    crossings = []
    for control, speed_up in saved.items():
        loss = comparison.losses[control].mean
        if loss is None:  # it diverged
            continue
        look, name = arm_look(control), words.arm(control)
        whole = words("horizons.whole", arm=name)
        legend.append((whole, look))
        place = f"results.json comparison.losses.{control}.mean"
        line(figure, reach, [loss, loss], whole, look, width=1.5, hover=words("figure.nats"), source=place)
        if speed_up.bound == "none":
            needed = float(np.mean(speed_up.steps_needed))
            crossings.append(words("horizons.crossing", arm=name, steps=f"{needed:,.0f}"))
            style = {"symbol": "circle-open", "size": 13, "line_width": 2.5}
            hover = html.escape(words("horizons.meets", arm=name, steps=f"{needed:,.0f}"))
            place = f"results.json comparison.{'speed_up' if arm == 'rlrs' else 'winner_speed_up'}.{control}"
            markers(
                figure, [needed], [loss], words("horizons.ring", arm=name), look, hover=hover, style=style, source=place
            )
    x, y = [steps for steps, _ in losses], [loss for _, loss in losses]
    runs_of = "results.json comparison.runs"
    markers(figure, x, y, words("horizons.seed"), own, hover=words("figure.nats"), opacity=0.45, source=runs_of)
    line(figure, lengths, means, words.arm(arm), own, width=2.5, hover=words("horizons.hover"), source=runs_of)
    figure.update_xaxes(range=reach, tickformat=",d")
    figure.update_yaxes(tickformat=".2f")
    met = words("horizons.reaches", crossings=words.list(crossings)) if crossings else words("horizons.none")
    return Panel(
        id="horizons",
        title=words("horizons.title"),
        unit=words("figure.unit"),
        alt=words("horizons.alt", arm=words.arm(arm), met=met),
        figure=figure,
        legend=legend,
        note=words("horizons.note", arm=words.way(arm)),
        source="results.json comparison.runs",
        logs=("x", "y"),
    )


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
