"""Figures of the schedules and of the losses on the target."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

from rlrs.ratios import BASE, Ratio
from rlrs.records import Comparison
from rlrs.report.curves import LossCurve
from rlrs.report.drawing import Panel, line, markers, plot, positive
from rlrs.report.palette import MUTED, Look, arm_look, arm_name, component_look, component_name
from rlrs.report.text import TIMES
from rlrs.schedules import BaseSchedule, relative_factor

SAMPLES = 240  # points per schedule line; enough for a smooth cosine, chosen here


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
    rate, relative = plot("% of training"), plot("% of training")
    legend = [("base rate", MUTED)]
    line(rate, progress, positive(base * (lr or 1.0)), "base rate", MUTED, width=1.5)
    line(relative, progress, [1.0] * len(progress), "base rate", MUTED, width=1.5)
    for component, ratio in ratios.items():
        factor = relative_factor(schedule, ratio.knots, steps)
        name, look = component_name(component), component_look(component)
        share = np.divide(factor, base, out=np.full_like(factor, np.nan), where=base > 0)
        line(rate, progress, positive(factor * (lr or 1.0)), name, look)
        line(relative, progress, positive(share), name, look, hover=f"%{{y:.3g}} {TIMES} base")
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
    figure = plot("steps")
    figure.update_xaxes(tickformat=",d")
    full = [curve for curve in curves if curve.horizon == 1.0 and curve.steps]
    means = {arm: _mean([c for c in full if c.arm == arm]) for arm in arms}
    for curve in full:
        look = arm_look(curve.arm)
        line(figure, curve.steps, curve.losses, "", Look(look.light, look.dark), width=1, opacity=0.4, hover=None)
    for arm, (steps, losses) in means.items():
        if steps:
            name = f"{arm_name(arm)}, mean"
            line(figure, steps, losses, name, arm_look(arm), width=2.5, hover="%{y:.3f} nats at step %{x:,}")
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


def horizon_panel(comparison: Comparison) -> Panel:
    """Final loss of the rlrs arm against the length of its run, and where it meets the controls' final losses."""
    figure = plot("steps of the whole run")
    runs = [r for r in comparison.runs if r.arm == "rlrs" and r.valid_loss is not None]
    lengths = sorted({r.steps for r in runs})
    losses = [(r.steps, r.valid_loss) for r in runs if r.valid_loss is not None]
    means = [float(np.mean([loss for steps, loss in losses if steps == n])) for n in lengths]
    reach = [0.94 * (lengths[0] if lengths else comparison.steps), 1.02 * comparison.steps]
    rlrs = arm_look("rlrs")
    legend = [(arm_name("rlrs"), rlrs)]
    crossings = []
    for control, speed_up in comparison.speed_up.items():
        loss = comparison.losses[control].mean
        if loss is None:  # it diverged
            continue
        look, name = arm_look(control), arm_name(control)
        legend.append((f"{name}, full length", look))
        line(figure, reach, [loss, loss], f"{name}, full length", look, width=1.5, hover="%{y:.3f} nats")
        if speed_up.bound == "none":
            needed = float(np.mean(speed_up.steps_needed))
            crossings.append(f"the {name} control's after {needed:,.0f} steps")
            style = {"symbol": "circle-open", "size": 13, "line_width": 2.5}
            hover = f"meets {html.escape(name)} after {needed:,.0f} steps"
            markers(figure, [needed], [loss], name, look, hover=hover, style=style)
    markers(figure, [steps for steps, _ in losses], [loss for _, loss in losses], "seed", rlrs, opacity=0.45)
    line(figure, lengths, means, arm_name("rlrs"), rlrs, width=2.5, hover="%{y:.3f} nats after %{x:,} steps")
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
