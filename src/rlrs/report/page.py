"""The pages: what they say, from a study's results; the templates say where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from rlrs.files import write_atomic
from rlrs.ratios import Ratio, Ratios
from rlrs.report import figures, palette, text, trial_figures, tuning
from rlrs.report.drawing import KINDS
from rlrs.report.results import read_curves, read_results
from rlrs.schedules import BaseSchedule, warmup_steps
from rlrs.yaml_files import dump_yaml


def write_report(study_folder: str | Path) -> Path:
    """Write `report.html` from a study's `results.json` and the metrics of its comparison runs.

    The page is one file without any reference to the network. It is replaced in one step.

    Returns:
        Path of the page.

    Raises:
        ReportError: results.json or a run's metrics are missing or cannot be used.
    """
    folder = Path(study_folder)
    results = read_results(folder)
    curves = read_curves(folder, results["comparison"]["runs"])
    path = folder / "report.html"
    write_atomic(path, _render("report.html.j2", **_report(results, curves)))
    return path


def write_ratios_page(
    ratios: Ratios, path: str | Path, *, schedule: BaseSchedule | None = None, lr: float | None = None
) -> Path:
    """Write a page with the schedules that ratios give: what `rlrs plot` makes.

    Args:
        ratios: the ratios.
        path: of the page; replaced in one step.
        schedule: the base schedule; if None, the one that the ratios were found with, as their provenance has
            it, or else a cosine over 1,000 steps.
        lr: base peak rate; if None, likewise, or else rates are in units of it.

    Returns:
        Path of the page.
    """
    found, rate = _found_with(ratios.provenance)
    schedule, lr = schedule or found, lr or rate
    page = _render(
        "ratios.html.j2",
        title=str(ratios.provenance.get("study") or ratios.provenance.get("preset") or "Ratios"),
        panels=figures.schedule_panels(ratios, schedule, lr),
        ratios=_ratio_rows(ratios, schedule, lr),
        schedule=schedule,
        lr=lr,
        provenance=dump_yaml(ratios.provenance) if ratios.provenance else "",
    )
    write_atomic(path, page)
    return Path(path)


def _found_with(provenance: Mapping[str, Any]) -> tuple[BaseSchedule, float | None]:
    """Base schedule and base peak rate of a study's ratios; a plain cosine for ratios without that provenance."""
    match provenance:
        case {"base": {"lr": float() as lr, **base}, "horizon": {"steps": int() as steps}}:
            return _schedule(base, base.get("final_fraction"), steps), lr
    return BaseSchedule(total_steps=1000, warmup_steps=10), None


def plot_ratios(ratios: Ratios, *, schedule: BaseSchedule, lr: float | None = None) -> go.Figure:
    """Schedules per component as one plotly figure, for notebooks: rates beside relative rates.

    Args:
        ratios: the ratios.
        schedule: the base schedule.
        lr: base peak rate; rates are in units of it if None.
    """
    panels = figures.schedule_panels(ratios, schedule, lr)
    both = make_subplots(cols=2, subplot_titles=[f"{panel.title}, {panel.unit}" for panel in panels])
    for column, panel in enumerate(panels, start=1):
        for trace in panel.figure.select_traces():
            both.add_trace(trace, row=1, col=column)
        both.update_traces(showlegend=column == 1, col=column)
        both.update_xaxes(panel.figure.layout.xaxis, row=1, col=column)
        both.update_yaxes(panel.figure.layout.yaxis, row=1, col=column)
    both.for_each_trace(lambda trace: trace.update(legendgroup=trace.name))
    both.update_xaxes(domain=[0, 0.46], col=1)
    both.update_xaxes(domain=[0.54, 1], col=2)
    both.update_layout(template="plotly_white", legend={"orientation": "h", "y": -0.2})
    return both


@dataclass(frozen=True)
class Saving:
    """Steps saved against one control, as the head of the page shows them.

    Args:
        big: the number in large type, or words where no saving is shown.
        shown: whether the results show a saving.
        control: the arm it is against.
        details: bound, interval, steps and loss, a few words each.
    """

    big: str
    shown: bool
    control: str
    details: list[str]


def _report(results: Mapping[str, Any], curves: Sequence[Any]) -> dict[str, Any]:
    config, comparison = results["study"]["config"], results["comparison"]
    arms = list(comparison["losses"])
    base = results["base"]["rlrs"]
    schedule = _schedule(config["training"], base["final_fraction"], comparison["steps"])
    ratios = Ratios(results["ratios"]["rlrs"])
    lr = base["lr"]
    return {
        **results,
        "title": results["study"]["name"],
        "verdict": comparison["verdict"],
        "savings": [_saving(control, comparison) for control in comparison["speed_up"]],
        "seeds": comparison["seeds"],
        "arms": arms,
        "schedule_panels": figures.schedule_panels(ratios, schedule, lr),
        "ratio_rows": _ratio_rows(ratios, schedule, lr),
        "loss_panels": [figures.loss_panel(curves, arms), figures.horizon_panel(comparison)],
        "search_panels": [
            tuning.history_panel(results["search"], config.get("search", {}).get("method", "")),
            tuning.transfer_panel(results["transfer"]),
        ],
        **_trial_panels(results["search"]["rlrs"]),
        "tuning_rows": _tuning_rows(results),
        "budget": _budget(results),
        "growth": _growth(results["models"]),
        "snippet": _snippet(config, lr, schedule),
        "level": next((d["level"] for d in comparison["differences"].values()), 0.95),
        "config_yaml": dump_yaml(config),
        "stages": {name: cost for name, cost in results["cost"].items() if isinstance(cost, Mapping)},
        "limits": _limits(results),
    }


def _trial_panels(search: Mapping[str, Any]) -> dict[str, Any]:
    """The pictures of the rlrs arm's trials, parameter by parameter; empty where there are too few."""
    tried = trial_figures.tried(search)
    if tried is None:
        return {
            "trial_panels": [],
            "u_panels": [],
            "trial_notes": ["There are too few whole trials for pictures of each parameter."],
        }
    importance = trial_figures.importance_panel(tried)
    notes = (
        tried.notes if importance else [*tried.notes, "Importance was not computed: there were too few whole trials."]
    )
    return {
        "trial_panels": [panel for panel in (importance, trial_figures.parallel_panel(tried)) if panel],
        "u_panels": trial_figures.u_panels(tried),
        "trial_notes": notes,
        "kinds": KINDS,
    }


def _schedule(training: Mapping[str, Any], final_fraction: float | None, steps: int) -> BaseSchedule:
    """The base schedule of a run of `steps` steps under a study's training settings."""
    shape = training.get("schedule", "cosine")
    return BaseSchedule(
        total_steps=steps,
        warmup_steps=warmup_steps(training.get("warmup_fraction", 0.0), steps),
        final_fraction=None if shape == "constant" else final_fraction,
        shape=shape,
    )


def _saving(control: str, comparison: Mapping[str, Any]) -> Saving:
    """The head's statement against one control: a number only where the whole interval shows a gain."""
    speed_up, loss = comparison["speed_up"][control], comparison["differences"][control]
    low, high, bound = speed_up["low"], speed_up["high"], speed_up["bound"]
    digits = text.digits_for(low, high)
    mean = text.percent(speed_up["mean"], digits)
    interval = f"{text.percent(speed_up['level'], 0)} interval {text.between(low, high, digits)}"
    shown = (
        comparison["verdict"]["kind"] != "no_transferable_gain" and loss["high"] < 0 and (low > 0 or bound == "lower")
    )
    gap, least, most = (text.difference(loss[key], 3) for key in ("mean", "low", "high"))
    difference = f"final loss {gap} nats ({least} to {most})"
    if not shown:
        never = bound == "upper" and not any(speed_up["per_seed"])
        estimate = "its loss is not reached in as many steps" if never else f"estimate {mean}, {interval}"
        return Saving("No saving shown", False, control, [estimate, difference])
    needed = sum(speed_up["steps_needed"]) / len(speed_up["steps_needed"])
    steps = f"{text.count(needed)} of {text.count(comparison['steps'])} steps, mean over seeds"
    notes = {
        "none": [],
        "lower": ["lower bound: in some seed even the shortest run was already better"],
        "upper": ["upper bound: in some seed the full run was not better, which counts as 0"],
    }[bound]
    sign = {"none": "", "lower": "\N{GREATER-THAN OR EQUAL TO} ", "upper": "\N{LESS-THAN OR EQUAL TO} "}[bound]
    return Saving(sign + mean, True, control, [*notes, interval, steps, difference])


def _ratio_rows(ratios: Mapping[str, Ratio], schedule: BaseSchedule, lr: float | None) -> list[dict[str, Any]]:
    peak = lr or 1.0
    return [
        {
            "component": component,
            "start": ratio.start,
            "end": ratio.end,
            "peak_rate": peak * ratio.start,
            "final_rate": peak * schedule.alpha * ratio.end,
        }
        for component, ratio in ratios.items()
    ]


def _tuning_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per arm: what it was allowed, what it spent, what it found."""
    rows = []
    for arm, transfer in results["transfer"].items():
        # Without a search of its own, an arm takes over what the rlrs arm's search found.
        own = arm in results["search"]
        search = results["search"][arm if own else "rlrs"]
        trials = [*search["trials"], *transfer["trials"]]
        rows.append(
            {
                "arm": arm,
                "budget": search["budget"] + transfer["budget"],
                "spent": len(trials),
                "diverged": sum(t["state"] == "diverged" for t in trials),
                "score": search["best"]["score"] if own else None,
                "lr": results["base"][arm]["lr"],
                "final_fraction": results["base"][arm]["final_fraction"],
                "ratios": Ratios(results["ratios"].get(arm, {})),
                "stopped": search["stopped"] if own else f"shares the search of {palette.arm_name('rlrs')}",
            }
        )
    return rows


def _budget(results: Mapping[str, Any]) -> str:
    """The budget that all arms had, in words; empty if they did not all have the same."""
    proxy, target = ({part["budget"] for part in results[stage].values()} for stage in ("search", "transfer"))
    if len(proxy) != 1 or len(target) != 1:
        return ""
    return f"up to {text.plural(proxy.pop(), 'trial')} on the proxy, then up to {target.pop()} on the target"


def _growth(models: Mapping[str, Any]) -> float:
    return models["target"]["parameters"]["total"] / models["proxy"]["parameters"]["total"]


def _snippet(config: Mapping[str, Any], lr: float, schedule: BaseSchedule) -> str:
    """The four lines that put the study's ratios into a trainer, with the target's values filled in."""
    decay = config["training"]["weight_decay"]
    shape = "" if schedule.shape == "cosine" else f', schedule="{schedule.shape}"'
    final = "" if schedule.shape == "constant" else f", final_fraction={schedule.alpha:.4g}"
    lengths = f"total_steps={schedule.total_steps}, warmup_steps={schedule.warmup_steps}"
    return "\n".join(
        [
            'ratios = rlrs.Ratios.load("ratios.yaml")',
            f"optimizer = torch.optim.AdamW(rlrs.param_groups(model, ratios, lr={lr:.4g}, weight_decay={decay:g}))",
            f"scheduler = rlrs.RelativeLR(optimizer, ratios, {lengths}{final}{shape})",
            "scheduler.step()  # in the training loop, after optimizer.step()",
        ]
    )


def _limits(results: Mapping[str, Any]) -> list[str]:
    """What the evidence does not show, from the study's own numbers."""
    comparison, models = results["comparison"], results["models"]
    seeds = len(comparison["seeds"])
    horizons = sorted({run["horizon"] for run in comparison["runs"] if run["arm"] == "rlrs"})
    lengths = ", ".join(text.percent(h, 0) for h in horizons)
    limits = [
        f"{text.plural(seeds, 'seed')}: intervals are Student's t over paired seeds, which set both the weights "
        "and the order of the data; with so few, they rest on the assumption of normal differences.",
        f"Saved steps are read between runs of {lengths} of the full length, each with its own schedule.",
        f"One data set, one target {_growth(models):.3g} times the proxy's parameters: nothing is shown beyond "
        "that size, that number of tokens, or other data.",
        "The base rate was tuned on the target for every arm, on seeds that the comparison does not use.",
    ]
    edge = [palette.arm_name(arm) for arm, part in results["transfer"].items() if _at_edge(part)]
    if edge:
        limits.append(
            f"The best base rate of {', '.join(edge)} on the target is the lowest or highest that its budget tried, so "
            "a better one may lie beyond: give transfer.trials more."
        )
    if any(s["bound"] == "lower" for s in comparison["speed_up"].values()):
        limits.append("A lower bound means that even the shortest run beat the control: add shorter horizons.")
    if comparison["verdict"]["kind"] == "no_transferable_gain":
        limits.append("No gain shown is not no gain possible: another budget, start or size may find one.")
    if "embedding_only" not in comparison["losses"]:
        limits.append("There is no embedding-only control: part of a gain may come from the embedding alone.")
    diverged = [run for run in comparison["runs"] if run["status"] == "diverged"]
    if diverged:
        names = ", ".join(f"{palette.arm_name(r['arm'])} seed {r['seed']}" for r in diverged)
        limits.append(f"Diverged in the comparison: {names}.")
    return limits


def _render(template: str, **context: Any) -> str:
    loader = jinja2.PackageLoader("rlrs.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        nats=text.nats,
        difference=text.difference,
        percent=text.percent,
        share=text.share,
        count=text.count,
        compact=text.compact,
        rate=text.rate,
        ratio=text.ratio,
        duration=text.duration,
        plural=text.plural,
        arm_name=palette.arm_name,
        component_name=palette.component_name,
        control_name=palette.control_name,
        arm_look=palette.arm_look,
        component_look=palette.component_look,
        figure_json=lambda panel: panel.figure.to_plotly_json(),
    )
    return environment.get_template(template).render(
        # Our own and plotly's text, not a study's: the only parts that are not escaped.
        style=Markup(loader.get_source(environment, "style.css")[0]),
        script=Markup(loader.get_source(environment, "page.js")[0]),
        plotly=Markup(get_plotlyjs()),
        dark_twins=palette.dark_twins(),
        **context,
    )


def _at_edge(transfer: Mapping[str, Any]) -> bool:
    """Whether the best base rate has no worse one beyond it on some side."""
    rates = [trial["params"]["lr"] for trial in transfer["trials"]]
    return transfer["best"]["params"]["lr"] in (min(rates), max(rates))
