"""The head of a study's page, for those who decide: what to do, what it saves, how sure that is, what it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlrs.records import ArmSearch, Comparison, Results
from rlrs.report import palette, text
from rlrs.settings import Arm

WORDS = {
    "better": "measurably better than",
    "not_different": "not measurably different from",
    "worse": "measurably worse than",
}
ACTIONS: dict[Arm, str] = {
    "uniform": "Keep one learning rate for the whole model.",
    "head_only": "Train the head alone, and freeze everything else.",
    "frozen_embedding": "Freeze the embedding, and train everything else at one learning rate.",
    "layer_decay": "Give lower layers lower learning rates, by one factor from layer to layer.",
    "lora_plus": "Give the second matrix of every adapter a higher learning rate than the first.",
    "embedding_only": "Give the embedding a learning rate of its own, and nothing else.",
    "constant": "Give every component a learning rate of its own, in a ratio that stays the same.",
    "rlrs": "Give every component a learning-rate schedule of its own.",
}
NEXT: dict[Arm, str] = {
    "uniform": "Leave the training script as it is. A larger search, another start or a larger proxy may find more.",
    "head_only": "Copy ratios.yaml, whose ratios are 0 for all but the head, and add the four lines below.",
    "frozen_embedding": "Copy ratios.yaml, whose ratio is 0 for the embedding, and add the four lines below.",
    "layer_decay": "Copy ratios.yaml, which holds a ratio for every layer, and add the four lines below.",
    "lora_plus": "Copy ratios.yaml, which holds the ratios of the adapters, and add the four lines below.",
    "embedding_only": "Copy ratios.yaml, which holds the embedding's ratios, and add the four lines below.",
    "constant": "Copy ratios.yaml, which holds the constant ratios, and add the four lines below.",
    "rlrs": "Copy ratios.yaml and add the four lines below; before a much larger run, confirm on a size between.",
}
GLOSSARY = (
    ("nat", "unit of the loss per token; 0.01 nats less is about 1% less perplexity"),
    ("arm", "one way of setting learning rates; all arms were tuned and compared alike"),
    ("proxy", "the small model that ratios are searched on, since runs of it are cheap"),
    ("target", "the larger model that they are carried over to, and that the numbers are about"),
)


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


def saving(control: Arm, comparison: Comparison) -> Saving:
    """What relative schedules save against one control: a number only where the whole interval shows a gain."""
    speed_up, loss = comparison.speed_up[control], comparison.differences[control]
    stands = comparison.decision.standings.get(control, loss.standing)
    digits = text.digits_for(speed_up.low, speed_up.high)
    mean = text.percent(speed_up.mean, digits)
    # No share is above 1; Student's interval of a few seeds may be.
    ends = text.between(speed_up.low, min(speed_up.high, 1.0), digits)
    interval = f"{text.percent(speed_up.level, 0)} interval {ends}"
    lower = speed_up.bound == "lower"  # even the shortest runs were better: how far beyond is not known
    shown = (
        comparison.decision.winner != "uniform"
        and stands == "better"
        and (speed_up.low > 0 or speed_up.bound == "lower")
    )
    gap, least, most = (text.difference(value, 3) for value in (loss.mean, loss.low, loss.high))
    difference = f"final loss {gap} nats ({least} to {most})"
    if not shown:
        never = speed_up.bound == "upper" and not any(speed_up.per_seed)
        known = f"estimate at least {mean}" if lower else f"estimate {mean}, {interval}"
        estimate = "its loss is not reached in as many steps" if never else known
        big = "Worse" if stands == "worse" else "No saving shown"
        return Saving(big, False, control, [f"{WORDS[stands]} it", estimate, difference])
    needed = sum(speed_up.steps_needed) / len(speed_up.steps_needed)
    steps = f"{text.count(needed)} of {text.count(comparison.steps)} steps, mean over seeds"
    notes = {
        "none": [],
        "lower": ["lower bound: in some seed even the shortest run was already better"],
        "upper": ["upper bound: in some seed the full run was not better, which counts as 0"],
    }[speed_up.bound]
    sign = {"none": "", "lower": "\N{GREATER-THAN OR EQUAL TO} ", "upper": "\N{LESS-THAN OR EQUAL TO} "}[speed_up.bound]
    return Saving(sign + mean, True, control, [*notes, *([] if lower else [interval]), steps, difference])


def facts(results: Results, comparison: Comparison) -> list[tuple[str, str]]:
    """Questions of those who decide, each with its answer in a sentence or two."""
    decision = comparison.decision
    return [
        ("Decision", ACTIONS[decision.winner]),
        ("What is saved", _saved(comparison)),
        ("How sure", _sure(comparison)),
        ("What it costs", _costs(results, comparison)),
        ("What could go wrong", _risk(results, comparison)),
        ("Next step", NEXT[decision.winner]),
    ]


def _saved(comparison: Comparison) -> str:
    decision, speed_up = comparison.decision, comparison.speed_up.get("uniform")
    gain = decision.against_uniform
    if decision.winner == "uniform" or gain is None:
        return "Nothing that this study could measure."
    lower = f"the final loss is {-gain.mean:.3f} nats lower at the same length"
    if decision.winner != "rlrs" or speed_up is None or not saving("uniform", comparison).shown:
        lower = lower if gain.standing == "better" else "nothing that this study could measure"
        return f"{lower[0].upper()}{lower[1:]}; steps saved were measured for relative schedules only."
    at_least = "At least " if speed_up.bound == "lower" else ""
    share = text.percent(speed_up.mean, text.digits_for(speed_up.low, speed_up.high))
    return f"{at_least}{share} of the steps of a run of this size, to the same loss; or {lower}."


def _sure(comparison: Comparison) -> str:
    decision = comparison.decision
    seeds = f"{text.plural(len(comparison.seeds), 'paired seed')}, each a whole run of every arm."
    if comparison.stopping is not None:
        seeds += f" {comparison.stopping.sentence}"
    standings = [
        f"{WORDS[standing]} {palette.control_name(control)}{_p_value(decision.p_values.get(control))}"
        for control, standing in decision.standings.items()
    ]
    stand = f" There, relative schedules are {'; '.join(standings)}." if standings else ""
    notes = "".join(f" {note}" for note in decision.notes)
    return f"{seeds}{stand}{notes}"


def _p_value(value: float | None) -> str:
    return "" if value is None else " (p < 0.001)" if value < 0.001 else f" (p = {value:.2g})"


def _costs(results: Results, comparison: Comparison) -> str:
    cost = results.cost
    if cost is None:
        return "Not known."
    spent = (
        f"{text.count(cost.search.steps)} steps of the proxy for the searches and {text.count(cost.transfer.steps)} of "
        "the target for base rates, all arms together"
    )
    proxy, target = results.models.proxy.parameters, results.models.target.parameters
    if proxy is None or target is None or not comparison.tokens or not cost.search.tokens:
        return f"{spent}."  # a trainer of the user's own, which has not said what a step takes
    # As much arithmetic as tokens times the parameters that a token uses.
    run, transfer = comparison.tokens * target.active, cost.transfer.tokens * target.active
    tuning = (cost.search.tokens * proxy.active + transfer) / run if run else math.inf
    spent = f"{spent}: as much arithmetic as {tuning:.2g} runs of the target."
    speed_up = comparison.speed_up.get("uniform")
    if comparison.decision.winner != "rlrs" or speed_up is None or not saving("uniform", comparison).shown:
        return spent
    runs = math.ceil(tuning / speed_up.mean)
    return f"{spent} It pays off after {text.plural(runs, 'run')} of the target; a larger model, sooner."


def _risk(results: Results, comparison: Comparison) -> str:
    if comparison.decision.winner == "uniform":
        return "A gain that this search, this proxy or so few seeds did not find."
    return (
        f"Shown at {_times(results)}, on one data set: ratios that help at one size "
        "can hurt at another, and their base rate has to be tuned again."
    )


def growth(results: Results) -> float | None:
    """The target's parameters over the proxy's; None where they are not known."""
    proxy, target = results.models.proxy.parameters, results.models.target.parameters
    return target.total / proxy.total if proxy and target else None


def _times(results: Results) -> str:
    times = growth(results)
    return "one size" if times is None else f"{times:.3g} times the proxy's parameters"


def limits(results: Results, comparison: Comparison) -> list[str]:
    """What the evidence does not show, from the study's own numbers."""
    horizons = sorted({run.horizon for run in comparison.runs if run.arm == "rlrs"})
    lengths = ", ".join(text.percent(h, 0) for h in horizons)
    found = [
        _intervals(comparison),
        f"Saved steps are read between runs of {lengths} of the full length, each with its own schedule.",
        f"One data set, one target{'' if growth(results) is None else f' {_times(results)}'}: nothing is shown beyond "
        "that size, that number of tokens, or other data.",
        "The base rate was tuned on the target for every arm, on seeds that the comparison does not use.",
        *comparison.decision.notes,
    ]
    edge = [palette.arm_name(arm) for arm, a in results.arms.items() if a.transfer and _at_edge(a.transfer)]
    if edge:
        found.append(
            f"The best base rate of {', '.join(edge)} on the target is the lowest or highest that its budget tried, so "
            "a better one may lie beyond: give transfer.trials more."
        )
    if any(s.bound == "lower" for s in comparison.speed_up.values()):
        found.append("A lower bound means that even the shortest run beat the control: add shorter horizons.")
    if comparison.decision.winner == "uniform":
        found.append("No gain shown is not no gain possible: another budget, start or size may find one.")
    if results.arms.get("constant") is not None and results.arms["constant"].search is None:
        found.append(
            "The constant ratios are no fair control here: they are the start ratios that the search of relative "
            "schedules found, not searched by themselves, so the difference overstates what change over time is worth."
        )
    if "embedding_only" not in comparison.losses:
        found.append("There is no embedding-only control: part of a gain may come from the embedding alone.")
    diverged = [run for run in comparison.runs if run.status == "diverged"]
    if diverged:
        names = ", ".join(f"{palette.arm_name(r.arm)} seed {r.seed}" for r in diverged)
        found.append(f"Diverged in the comparison: {names}.")
    return found


def _intervals(comparison: Comparison) -> str:
    kind = "Student's t" if comparison.stopping is None else "confidence sequences, valid at every look,"
    return (
        f"{text.plural(len(comparison.seeds), 'seed')}: intervals are {kind} over paired seeds, which set both the "
        "weights and the order of the data; with so few, they rest on the assumption of normal differences. Verdicts "
        "and p-values are corrected for the number of arms (Holm), intervals are not."
    )


def budgets(searches: Sequence[ArmSearch], transfers: Sequence[ArmSearch]) -> str:
    """The budget that all arms had, in words; empty if they did not all have the same."""
    proxy, target = ({part.budget for part in stage} for stage in (searches, transfers))
    if len(proxy) != 1 or len(target) != 1:
        return ""
    return f"up to {text.plural(proxy.pop(), 'trial')} on the proxy, then up to {target.pop()} on the target"


def _at_edge(transfer: ArmSearch) -> bool:
    """Whether the best base rate has no worse one beyond it on some side."""
    rates = [trial.params["lr"] for trial in transfer.trials if "lr" in trial.params]
    return bool(rates) and transfer.best["lr"] in (min(rates), max(rates))
