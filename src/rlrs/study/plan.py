"""What a study will cost, before anything is trained; what would pay for it, and the smallest that could decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlrs.comparison import seeds_needed
from rlrs.data import vocabulary_size
from rlrs.inspection import meta_model
from rlrs.models import concrete, count_parameters, training_flops
from rlrs.search.space import knot_progress
from rlrs.settings import Arm, ConfigError, ScaleConfig, StudyConfig
from rlrs.study.ladder import plan_ladder
from rlrs.study.spaces import search_spaces, trained_components
from rlrs.study.timing import StepTimes
from rlrs.study.trainer_checks import own_components, own_size

FEWEST_TRANSFERS = 3
"""Runs that can show a base rate to be better than those on both sides of it."""
MOST_RUNS = (1, 3, 10, 30, 100)
"""Runs of the target that a study may have to be paid by, in `rlrs plan`."""


@dataclass(frozen=True)
class PlanRow:
    """What a stage may cost at most, of all its runs together.

    Args:
        stage: search, transfer or comparison.
        runs: how many.
        steps: of the longest of them.
        all_steps: of all together.
        tokens: 0 if not known.
        flops: 0 if not known.
        hours: here, one run at a time; None if not known.
        machine_hours: on the machine that the settings describe; None without one.
        money: of that machine.
    """

    stage: str
    runs: int
    steps: int
    all_steps: int
    tokens: int
    flops: float
    hours: float | None = None
    machine_hours: float | None = None
    money: float | None = None


def plan(study: StudyConfig, times: StepTimes | None = None) -> list[PlanRow]:
    """The runs of a study, stage by stage, without training any; `resolve` says whether they can be.

    Args:
        study: settings.
        times: of a step of proxy and target, for hours.
    """
    settings, steps = study.comparison, study.target.steps
    arms, seeds = len(settings.arms), settings.most_seeds
    shorter = [max(1, round(horizon * steps)) for horizon in settings.horizons]
    # A simpler arm that wins is run shorter as well.
    lengths = [steps] * arms + shorter * (2 if set(settings.arms) - {"uniform", "rlrs"} else 1)
    return [
        _plan_row("search", study, "proxy", arms * study.search.trials, [study.proxy.steps], times),
        *([] if study.ladder is None else [_ladder_row(study, times)]),
        _plan_row("transfer", study, "target", arms * study.transfer.trials, [steps], times),
        _plan_row("comparison", study, "target", seeds, lengths, times),
    ]


def run_of_target(study: StudyConfig, times: StepTimes | None = None) -> PlanRow:
    """One full-length run of the target."""
    return _plan_row("run", study, "target", 1, [study.target.steps], times)


def searched(study: StudyConfig) -> dict[Arm, list[str]]:
    """What the search of every arm moves: settings by name, then components with the ends or knots of their ratios.

    Args:
        study: settings, resolved.
    """
    if study.trainer is not None:
        components = own_components(study.trainer, study.proxy, "proxy.set")[0]
    else:
        components = trained_components(meta_model(study.proxy.model, vocabulary_size(study.data)))
    return {arm: _condensed(space.names) for arm, space in search_spaces(study, components).items()}


def _condensed(names: Sequence[str]) -> list[str]:
    """Names of parameters with the knots of one ratio together.

    >>> _condensed(["lr", "embedding.start", "embedding.end", "encoder.layer_decay"])
    ['lr', 'embedding (start, end)', 'encoder.layer_decay']
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        component, _, part = name.rpartition(".")
        if component and knot_progress(part) is not None:
            parts.setdefault(component, []).append(part)
        else:
            parts[name] = []
    return [f"{name} ({', '.join(knots)})" if knots else name for name, knots in parts.items()]


def share_that_pays(rows: Sequence[PlanRow], run: PlanRow, runs: int) -> float | None:
    """The share of steps that has to be saved for so many runs of the target to pay for the study.

    Args:
        rows: of the plan.
        run: one run of the target.
        runs: of the target, after the study.

    Returns:
        A share; above 1 where nothing can. None where neither FLOPs nor hours are known.

    Examples:
        >>> run = PlanRow("run", 1, 100, 100, 0, 1e9)
        >>> share_that_pays([PlanRow("search", 9, 50, 450, 0, 2e9)], run, 10)
        0.2
    """
    for name in ("flops", "hours"):
        spent, whole = [getattr(row, name) for row in rows], getattr(run, name)
        if whole and all(value is not None for value in spent):
            return math.fsum(spent) / whole / runs
    return None


def smallest(study: StudyConfig, gain: float, noise: float) -> StudyConfig | None:
    """The smallest study that could decide for a gain: with the fewest arms, transfer runs and seeds that can.

    The fair control stays: a gain over one rate alone may be the embedding multiplier's. The searches stay as they are,
    since how many trials find ratios is not known beforehand.

    Args:
        study: settings.
        gain: over the strongest control, nats per token.
        noise: standard deviation of paired differences from seed to seed, nats per token.

    Returns:
        Settings; None where more than 1,000 seeds would be needed.

    Raises:
        ConfigError: a gain or a noise that cannot be.
    """
    if not (gain > 0 and noise >= 0 and math.isfinite(gain) and math.isfinite(noise)):
        raise ConfigError(f"gain should be above 0 and noise 0 or more, in nats, not {gain=:g}, {noise=:g}")
    comparison = study.comparison
    seeds = seeds_needed(gain, noise, anytime=comparison.stop == "anytime")
    if seeds is None:
        return None
    arms: tuple[Arm, ...] = ("uniform", "embedding_only", "rlrs")
    limits = {"seeds": 3, "max_seeds": max(3, seeds)} if comparison.stop == "anytime" else {"seeds": seeds}
    fewest = min(study.transfer.trials, FEWEST_TRANSFERS)
    return study.model_copy(
        update={
            "comparison": comparison.model_copy(update={"arms": arms, **limits}),
            "transfer": study.transfer.model_copy(update={"trials": fewest}),
        }
    )


def growth(study: StudyConfig) -> float | None:
    """The target's parameters over the proxy's, both without embeddings; None where they are not known."""
    if study.trainer is not None:
        sizes = [own_size(study.trainer, scale, "set")["parameters"] for scale in (study.proxy, study.target)]
        proxy, target = (size and size["non_embedding"] for size in sizes)
        return target / proxy if proxy and target else None
    size = vocabulary_size(study.data)
    proxy, target = (count_parameters(meta_model(concrete(scale).model, size)) for scale in (study.proxy, study.target))
    return target.non_embedding / proxy.non_embedding


def _ladder_row(study: StudyConfig, step_times: StepTimes | None) -> PlanRow:
    """All rungs together; the proxy's search is the one of the study, and only measured here."""
    found, arms = plan_ladder(study), len(study.comparison.arms)
    assert study.ladder is not None
    rows = []
    for rung in found.rungs:
        times = arms * (study.ladder.seeds + (0 if rung.is_proxy else found.trials))
        rows.append(_plan_row("ladder", study, "proxy", times, [rung.scale.steps], step_times, rung.scale))
    runs, steps, tokens, flops = (
        sum(getattr(r, name) for r in rows) for name in ("runs", "all_steps", "tokens", "flops")
    )
    hours, machine_hours, money = (
        _total([getattr(r, name) for r in rows]) for name in ("hours", "machine_hours", "money")
    )
    return PlanRow(
        "ladder",
        runs,
        max(row.steps for row in rows),
        steps,
        tokens,
        flops,
        hours=hours,
        machine_hours=machine_hours,
        money=money,
    )


def _total(values: list[float | None]) -> float | None:
    return None if None in values else math.fsum(value or 0.0 for value in values)


def _cost(study: StudyConfig, scale: ScaleConfig, steps: int) -> tuple[int, float]:
    """Tokens and FLOPs of so many steps, 0 where they are not known."""
    if study.trainer is not None:
        return steps * (scale.tokens or 0), 0.0
    tokens = steps * scale.batch_size * study.data.sequence_length
    model = meta_model(concrete(scale).model, vocabulary_size(study.data))
    return tokens, float(training_flops(model, study.data.sequence_length)) * tokens


def _plan_row(
    stage: str,
    study: StudyConfig,
    size: str,
    times: int,
    lengths: list[int],
    step_times: StepTimes | None,
    rung: ScaleConfig | None = None,
) -> PlanRow:
    """Runs of a size; of a rung with the pace of that size, a step's time in proportion to its FLOPs."""
    scale: ScaleConfig = getattr(study, size)
    steps = times * sum(lengths)
    tokens, flops = _cost(study, rung or scale, steps)
    seconds = None if step_times is None else getattr(step_times, size)
    if rung is not None and seconds is not None:
        whole = _cost(study, scale, steps)[1]
        seconds = seconds * flops / whole if whole else None
    machine = study.machine
    hours = None if machine is None else machine.hours(size, tokens or None, flops or None)
    return PlanRow(
        stage,
        times * len(lengths),
        max(lengths),
        steps,
        tokens,
        flops,
        hours=None if seconds is None else steps * seconds / 3600,
        machine_hours=hours,
        money=None if machine is None or hours is None else hours * machine.price_per_hour,
    )
