"""What an arm saves and what finding it cost, in every unit; the speed-up's one definition, multiplied out.

The share that is saved is `SpeedUp`: 1 - steps needed for the control's final loss / the control's steps. Arms train
one model on batches of one size, so it is the share of tokens and FLOPs too, and of time and money at one pace.

    pays off after N runs:  N * saved share * one run of the target >= search + ladder + transfer + comparison

all arms together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from rlrs.records import Comparison, ModelSize, Results, SpeedUp, Spent
from rlrs.settings import Arm
from rlrs.settings.machine import MachineConfig


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """Training, in every unit; None where a unit is not known. They add up, and are multiplied by a share.

    Args:
        steps: optimizer steps; None for sums of several sizes of model.
        tokens: trained on.
        flops: floating-point operations.
        hours: of the machine that trained the study, one run at a time.
        machine_hours: of the machine that the study's settings describe.
        money: of that machine.

    Examples:
        >>> run = Quantity(steps=100, tokens=6400, flops=1e9)
        >>> (run * 0.25).steps, (run + run).tokens, run.money
        (25.0, 12800, None)
    """

    steps: float | None = None
    tokens: float | None = None
    flops: float | None = None
    hours: float | None = None
    machine_hours: float | None = None
    money: float | None = None

    def __add__(self, other: Quantity) -> Quantity:
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Quantity(**{n: None if a is None or b is None else a + b for n, (a, b) in pairs.items()})

    def __mul__(self, share: float) -> Quantity:
        known = {f.name: getattr(self, f.name) for f in fields(self)}
        return Quantity(**{name: None if value is None else value * share for name, value in known.items()})


@dataclass(frozen=True)
class PaysOff:
    """Runs of the target after which a study has saved what it cost.

    Args:
        runs: by the mean saving.
        soonest: by the upper end of its interval.
        latest: by the lower end; None if that is no saving, so that it may never pay off.
    """

    runs: int
    soonest: int
    latest: int | None


@dataclass(frozen=True)
class Account:
    """What a study cost, and what one run of its target takes.

    Args:
        stages: search, ladder if there is one, transfer, comparison: what all arms took together.
        run: one full-length run of the target.
        machine: that money is reckoned for; None if the study's settings describe none.
    """

    stages: Mapping[str, Quantity]
    run: Quantity
    machine: MachineConfig | None

    @property
    def total(self) -> Quantity:
        """All stages together."""
        first, *others = self.stages.values()
        return replace(sum(others, first), steps=None)

    def in_runs(self, spent: Quantity) -> float | None:
        """So much training, in runs of the target; by FLOPs, and by hours where those are not known."""
        for name in ("flops", "hours"):
            part, whole = getattr(spent, name), getattr(self.run, name)
            if part is not None and whole:
                return part / whole
        return None

    def pays_off(self, saved: SpeedUp) -> PaysOff | None:
        """When the saving has paid for the study; None if it saves nothing, or what a run takes is not known."""
        cost = self.in_runs(self.total)
        if cost is None or saved.mean <= 0:
            return None

        def after(share: float) -> int:
            return max(1, math.ceil(cost / min(share, 1.0) - 1e-9))

        low = saved.mean if saved.bound == "lower" else saved.low  # how far beyond the mean is not known then
        return PaysOff(after(saved.mean), after(saved.high), after(low) if low > 0 else None)


def account(results: Results) -> Account | None:
    """What a study cost and what a run of its target takes, from its results; None before its comparison.

    FLOPs are the model's own count (`rlrs.models.training_flops`), in older results 6 for each active parameter and
    token (Kaplan et al., 2020). Hours are the seconds of its runs, one after another.
    """
    comparison, cost = results.comparison, results.cost
    if comparison is None or cost is None:
        return None
    machine, models = described_machine(results), results.models
    proxy, target = models.proxy, models.target
    seconds = _seconds(results, comparison)
    stages = {
        "search": _quantity(proxy, machine, "proxy", cost.search.steps, cost.search.tokens, seconds["search"]),
        **({} if cost.ladder is None else {"ladder": _of_ladder(cost.ladder, machine)}),
        "transfer": _quantity(
            target, machine, "target", cost.transfer.steps, cost.transfer.tokens, seconds["transfer"]
        ),
        "comparison": _quantity(
            *(target, machine, "target", cost.comparison.steps, cost.comparison.tokens, seconds["comparison"])
        ),
    }
    whole = [run.seconds for run in comparison.runs if run.horizon == 1.0 and run.status == "finished"]
    known = [value for value in whole if value]
    mean = math.fsum(known) / len(known) if known and len(known) == len(whole) else None
    run = _quantity(target, machine, "target", comparison.steps, comparison.tokens, mean)
    return Account(stages, run, machine)


def described_machine(results: Results) -> MachineConfig | None:
    """The machine that a study's settings describe; None if there is none."""
    plain: Any = results.study.config.get("machine")
    try:
        return None if plain is None else MachineConfig.model_validate(plain)
    except ValidationError:
        return None  # of another version


def saved_by_winner(comparison: Comparison) -> Mapping[Arm, SpeedUp]:
    """Control -> steps that the arm which was decided for saves; of `rlrs` where that is `uniform`."""
    winner = comparison.decision.winner
    return comparison.speed_up if winner in ("rlrs", "uniform") else comparison.winner_speed_up


def _quantity(
    size: ModelSize, machine: MachineConfig | None, name: str, steps: int, tokens: int, seconds: float | None
) -> Quantity:
    flops = flops_per_token(size)
    work = tokens * flops if flops and tokens else None
    hours = machine.hours(name, tokens or None, work) if machine is not None else None
    return Quantity(
        steps=steps,
        tokens=tokens or None,
        flops=work,
        hours=seconds / 3600 if seconds else None,
        machine_hours=hours,
        money=hours * machine.price_per_hour if machine is not None and hours is not None else None,
    )


def _of_ladder(spent: Spent, machine: MachineConfig | None) -> Quantity:
    """Runs of several sizes; on a described machine at the pace of the proxy, to which they are nearest."""
    hours = machine.hours("proxy", spent.tokens or None, spent.flops) if machine is not None else None
    return Quantity(
        steps=spent.steps,
        tokens=spent.tokens or None,
        flops=spent.flops,
        hours=spent.seconds / 3600 if spent.seconds else None,
        machine_hours=hours,
        money=hours * machine.price_per_hour if machine is not None and hours is not None else None,
    )


def flops_per_token(size: ModelSize) -> float | None:
    """Of training a model; None where its parameters are not known."""
    if size.flops_per_token is not None:
        return size.flops_per_token
    return 6.0 * size.parameters.active if size.parameters is not None else None


def _seconds(results: Results, comparison: Comparison) -> dict[str, float | None]:
    """Seconds of all runs of a stage; None where they were not kept."""
    runs = [run.seconds for run in comparison.runs]
    found: dict[str, float | None] = {"comparison": math.fsum(s for s in runs if s) if all(runs) else None}
    for stage in ("search", "transfer"):
        parts = [getattr(arm, stage) for arm in results.arms.values()]
        spent = [t.result.seconds for part in parts if part for t in part.trials if t.result is not None]
        found[stage] = math.fsum(spent) or None
    return found
